"""Hosts on this machine, with a network between them: namespaces of Linux, and Ray on them.

A host has a network, process ids, mounts and a name of its own; files are shared. All of it is in
namespaces that nothing but the host's processes hold, so it goes when they go.
"""

import contextlib
import os
import subprocess
import sys
import tempfile
from pathlib import Path

BIN = Path(sys.executable).parent
HEAD = "10.0.0.1"  # within the namespaces' own network


class Host:
    """A host of its own; process 1 ends, and with it all others, when it is switched off, or the
    process that made it dies."""

    def __init__(self, name):
        self.name = name
        apart = ("--net", "--mount", "--uts", "--pid", "--fork", "--kill-child", "--mount-proc")
        self._outer = subprocess.Popen(
            ["unshare", *apart, "sh", "-c", 'hostname "$0" && echo up && exec cat', name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        if self._outer.stdout.readline() != b"up\n":
            raise OSError(self._outer.communicate()[1].decode().strip())
        outer = self._outer.pid
        self.pid = Path(f"/proc/{outer}/task/{outer}/children").read_text().split()[0]

    def ip(self, *arguments):
        """``ip`` in its network alone, where process ids are those of this machine."""
        subprocess.run(["nsenter", "-t", self.pid, "-n", "ip", *arguments], check=True)

    def inside(self, *command):
        return ["nsenter", "-t", self.pid, "-m", "-n", "-u", "-p", *map(str, command)]

    def run(self, *command, env=None):
        done = subprocess.run(
            self.inside(*command), capture_output=True, text=True, env=env, check=False
        )
        assert not done.returncode, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout

    def off(self):
        """Every process on it is killed at once."""
        self._outer.stdin.close()
        self._outer.wait()


class Cluster:
    """A head without CPUs and workers with one, started with ``ray start``."""

    def __init__(self, settings):
        self.env = {
            **os.environ,
            **settings,
            "RAY_USAGE_STATS_ENABLED": "0",
            # Nobody else reaches this network; a token of the user's own is left alone.
            "RAY_AUTH_MODE": "disabled",
            "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        }
        self._off = contextlib.ExitStack()
        # What Ray keeps of a session is each host's own; a path that is short, for its sockets.
        self._sessions = self._off.enter_context(tempfile.TemporaryDirectory(prefix="ray"))
        self._switch = self._host("switch")
        self._switch.ip("link", "add", "bridge", "type", "bridge")
        self._switch.ip("link", "set", "bridge", "up")
        self.hosts = []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._off.close()

    def _host(self, name):
        host = Host(name)
        self._off.callback(host.off)
        return host

    def add(self, cpus):
        """A host more, with Ray; the first is the head."""
        number = len(self.hosts) + 1
        host = self._host(f"host{number}")
        port = f"port{number}"
        self._switch.ip(
            *("link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", host.pid)
        )
        self._switch.ip("link", "set", port, "master", "bridge", "up")
        host.ip("link", "set", "lo", "up")
        host.ip("addr", "add", f"10.0.0.{number}/24", "dev", "eth0")
        host.ip("link", "set", "eth0", "up")
        host.ip("route", "add", "default", "dev", "eth0")
        host.run("mount", "-t", "tmpfs", "tmpfs", self._sessions)
        self.hosts.append(host)
        host.cpus = cpus
        self.start(host)
        return host

    def start(self, host):
        """``ray start`` on a host."""
        number = self.hosts.index(host) + 1
        role = (
            "--head",
            "--port=6379",
            "--include-dashboard=false",
            f"--temp-dir={self._sessions}",
        )
        if number > 1:
            role = (f"--address={HEAD}:6379",)
        host.run(
            *(BIN / "ray", "start", *role, f"--node-ip-address=10.0.0.{number}"),
            *(f"--num-cpus={host.cpus}", "--num-gpus=0", "--object-store-memory=80000000"),
            env=self.env,
        )

    def wait_for(self, alive):
        """Until the head counts so many hosts alive."""
        code = (
            "import ray, time\n"
            f"ray.init('{HEAD}:6379', log_to_driver=False)\n"
            f"while sum(node['Alive'] for node in ray.nodes()) != {alive}: time.sleep(0.1)"
        )
        self.hosts[0].run("timeout", "120", sys.executable, "-c", code, env=self.env)

    def tokenize(self, host, source, output, *options):
        """The command, begun on a host."""
        return subprocess.Popen(
            host.inside(
                *(BIN / "tokcodec", "tokenize", source, "-o", output, *options),
                *("--engine", "ray", "--ray-address", f"{HEAD}:6379", "--actors", "2"),
            ),
            stderr=subprocess.PIPE,
            text=True,
            env=self.env,
        )

    def link(self, host, state):
        """Cuts a host off (``down``), or connects it again (``up``)."""
        self._switch.ip("link", "set", f"port{self.hosts.index(host) + 1}", state)
