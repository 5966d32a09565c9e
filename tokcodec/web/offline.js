/* A service worker that keeps the page, so that it opens without a network. */

const CACHE = "tokcodec $version";

self.addEventListener("install", (event) => {
  self.skipWaiting();
  event.waitUntil(caches.open(CACHE).then((cache) => cache.add("./")));
});

self.addEventListener("activate", (event) => {
  const isOld = (name) => name.startsWith("tokcodec ") && name !== CACHE;
  const removeOld = async () => {
    await Promise.all((await caches.keys()).filter(isOld).map((name) => caches.delete(name)));
    await self.clients.claim();
  };
  event.waitUntil(removeOld());
});

self.addEventListener("fetch", (event) => {
  if (event.request.mode !== "navigate") return;
  event.respondWith(caches.match("./").then((kept) => kept ?? fetch(event.request)));
});
