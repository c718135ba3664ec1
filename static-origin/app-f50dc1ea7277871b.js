// Says where each asset of this page came from.
const list = document.querySelector("output");
for (const { src, href } of document.querySelectorAll("img, link[rel=stylesheet], script[src]")) {
  const url = src || href;
  fetch(url, { method: "HEAD", cache: "no-store" }).then((answer) => {
    const line = document.createElement("div");
    line.textContent = `${new URL(url).pathname}: ${answer.headers.get("cache-status") ?? "no cache"}`;
    list.append(line);
  });
}
