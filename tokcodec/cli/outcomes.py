"""Prints the jobs of a command and their outcomes."""

import contextlib
from collections import Counter
from collections.abc import Iterable
from typing import Any

import typer

from tokcodec.batch.jobs import Outcome, Outcomes, RunOptions
from tokcodec.cli.hints import explain
from tokcodec.cli.progress import Bar
from tokcodec.cli.terminal import note, print_json, say, show
from tokcodec.decoding import SENSIBLE_EDGE
from tokcodec.errors import counted
from tokcodec.io.job import Job


def report(done: str, outcomes: Outcomes, as_json: bool, options: RunOptions) -> None:
    """Does all jobs, and prints their outcomes.

    Several jobs have a progress bar, and with ``as_json`` a line of JSON each. A single job, and
    each job of a dry run, has a line.

    Args:
        done: a participle that says what happens to a job: ``encoded``.

    Raises:
        typer.Exit: with status 3 if some of several jobs failed, 1 if the only one failed.
    """
    if outcomes.skipped:
        note(outcomes.skipped)
    if options.dry_run:
        report_jobs((outcome.job for outcome in outcomes), as_json, options.overwrite)
        return
    single = outcomes.count == 1
    number, failed, incomplete, missing, tokens = 0, False, 0, 0, 0
    everywhere = "" if as_json else "--json names all"
    bar = None if single else Bar(done, outcomes.count, where_failed=everywhere)
    if bar:
        bar.total_bytes = outcomes.source_bytes
    with bar or contextlib.nullcontext():
        for outcome in outcomes:
            number += 1
            failed = failed or outcome.error is not None
            if outcome.missing and outcome.token_file:
                incomplete += 1
                missing += outcome.missing
                tokens += outcome.token_file.num_tokens
            if as_json:
                print_json(_facts(outcome))
            if bar:
                _move(bar, outcome)
            elif outcome.error:
                say(explain(outcome.error))
            elif outcome.status == "skipped":
                note(f"skipped: {outcome.job.target} is up to date (-f writes it again)")
            elif outcome.job.target and not as_json:
                note(f"{outcome.job.name} -> {outcome.job.target}: {_summary(outcome)}")
    if bar and incomplete:
        note(f"{counted(incomplete, 'image')} had missing tokens: {missing:,} of {tokens:,}")
    if failed:
        raise typer.Exit(1 if single and number == 1 else 3)


def _move(bar: Bar, outcome: Outcome) -> None:
    bar.bytes_in += outcome.source_bytes
    bar.bytes_read += outcome.job.source.size
    bar.bytes_skipped += outcome.job.source.size if outcome.status == "skipped" else 0
    bar.bytes_out += outcome.file_bytes or 0
    if outcome.error:
        bar.fail(explain(outcome.error))
    elif outcome.status == "skipped":
        bar.skip()
    else:
        bar.move()


def _summary(outcome: Outcome) -> str:
    file, size = outcome.token_file, outcome.image_size
    assert file
    assert size
    text = f"{counted(file.num_tokens, 'token')} of {outcome.checkpoint}"
    if outcome.file_bytes:  # none for a part of a contact sheet
        text = f"{counted(outcome.file_bytes, 'byte')}, {text}"
    if outcome.missing:
        text += f", {outcome.missing:,} of them missing"
    if file.packets:
        text += f", {counted(len(file.parts()), 'packet')}"
    if max(size) == SENSIBLE_EDGE and max(size) < max(file.width, file.height):
        text += (
            f"; {size[0]:,}x{size[1]:,} pixels (--size original: {file.width:,}x{file.height:,})"
        )
    return text


def _facts(outcome: Outcome) -> dict[str, Any]:
    file = outcome.token_file
    return {
        **_job_facts(outcome.job),
        "status": outcome.status,
        "error": explain(outcome.error) if outcome.error else None,
        "file_bytes": outcome.file_bytes,
        "width": outcome.image_size[0] if outcome.image_size else None,
        "height": outcome.image_size[1] if outcome.image_size else None,
        "num_tokens": file.num_tokens if file else None,
        "missing_tokens": outcome.missing if file else None,
        "entropy_coded": file.entropy_coded if file else None,
        "checkpoint": outcome.checkpoint,
    }


def _job_facts(job: Job[Any]) -> dict[str, Any]:
    target = str(job.target) if job.target else None
    return {"source": job.name, "output": target, "state": job.state, "why": job.why}


def report_jobs(jobs: Iterable[Job[Any]], as_json: bool, overwrite: bool, inputs: str = "") -> None:
    """Prints each job of a dry run with its state, and the number of jobs in each state."""
    counts: Counter[str] = Counter()
    for job in jobs:
        counts[job.state] += 1
        if as_json:
            print_json(_job_facts(job))
        else:
            target = job.target or ("standard output" if job.state == "new" else "nothing")
            show(f"{job.name} -> {target}: {job.state}" + (f" ({job.why})" if job.why else ""))
    states = ", ".join(f"{number:,} {state}" for state, number in counts.items())
    refused = (counts["stale"] or counts["foreign"]) and not overwrite
    remedy = "; stale and foreign files are overwritten only with -f" if refused else ""
    inputs = inputs or counted(counts.total(), "input")
    say(f"dry run, nothing is written: {inputs}: {states}{remedy}")
