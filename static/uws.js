// What a page does beyond its links and forms: times in the reader's zone, what unfolds, what changes, SAMP.
// Without this script all is there as well, after a reload or on a page of its own.
"use strict";

const SAMP_HUB = "http://localhost:21012/"; // SAMP 1.3 section 5.2.1
const AT_MOST_EVERY = 500; // milliseconds between two looks at a page that keeps changing, or up to twice that
const GONE = new Set([401, 403, 404, 410]); // what is not there for the reader any more
const TRY_AGAIN = 15000; // milliseconds until a page that may not listen looks again, or tries to listen again
const STREAMS = 4; // that all pages of a browser hold together: over HTTP/1.1 it has six connections to a server

// Times

function showTimes(root) {
  for (const time of root.querySelectorAll("time[datetime]")) {
    const moment = new Date(time.dateTime);
    if (time.title || Number.isNaN(moment.getTime())) continue;
    time.title = time.textContent;
    time.textContent = moment.toLocaleString(undefined, { dateStyle: "medium", timeStyle: "medium" });
  }
}

// What unfolds: the content of another page of ours, its links as they are there

async function fetchPage(url) {
  const answer = await fetch(url, { headers: { Accept: "text/html" } });
  const page = new DOMParser().parseFromString(await answer.text(), "text/html");
  const main = page.getElementById("main");
  if (!main) throw new Error(`there is no page at ${url}`);
  return { status: answer.status, main };
}

async function unfold(details) {
  if (!details.open || details.dataset.state) return;
  details.dataset.state = "loading";
  const url = new URL(details.dataset.include, document.baseURI);
  try {
    const { main } = await fetchPage(url);
    for (const element of main.querySelectorAll("[href], [src], [action]")) {
      const name = ["href", "src", "action"].find((attribute) => element.hasAttribute(attribute));
      element.setAttribute(name, new URL(element.getAttribute(name), url).href);
    }
    main.querySelector("h1")?.remove();
    showTimes(main);
    // The summary stays where it is, and so does the focus that it may have.
    const summary = details.querySelector("summary");
    while (summary.nextSibling) summary.nextSibling.remove();
    summary.after(...main.childNodes);
    details.dataset.state = "there";
  } catch {
    delete details.dataset.state; // its link is still there, and so is another try
  }
}

function prepareUnfolding(root) {
  for (const details of root.querySelectorAll("details[data-include]")) {
    details.addEventListener("toggle", () => unfold(details));
  }
}

// What changes: parts of the page with an id, as the server has them now

const shown = new Map(); // what the server last said each part is

function partsOf(main) {
  return new Map([...main.children].filter((part) => part.id).map((part) => [part.id, part]));
}

function keepFocus(part, change) {
  const held = document.activeElement;
  const had = part.contains(held);
  const again = had && (held.id ? `#${CSS.escape(held.id)}` : held.value && `[value="${CSS.escape(held.value)}"]`);
  change();
  if (had) ((again && part.querySelector(again)) || document.getElementById("main")).focus();
}

function isBeingEdited(part) {
  const held = document.activeElement;
  return (part.contains(held) && held.matches("input, select, textarea")) || part.querySelector("details.confirm[open]");
}

// Shows the page as it is now; returns whether it may change further.
async function refresh() {
  const { status, main } = await fetchPage(location.href);
  if (GONE.has(status)) location.reload();
  if (status !== 200) throw new Error(`answered ${status}`);
  const here = partsOf(document.getElementById("main"));
  let last = null;
  for (const [id, part] of partsOf(main)) {
    const now = part.outerHTML;
    const old = here.get(id);
    here.delete(id);
    if (!old) {
      last ? last.after(part) : document.getElementById("main").querySelector("h1").after(part);
      prepare(part);
      last = part;
      shown.set(id, now);
      continue;
    }
    last = old;
    if (shown.get(id) === now || isBeingEdited(old)) continue;
    shown.set(id, now);
    const open = new Set([...old.querySelectorAll("details[open]")].map((one) => one.dataset.include));
    keepFocus(old, () => old.replaceChildren(...part.childNodes));
    prepare(old);
    for (const details of old.querySelectorAll("details[data-include]")) details.open = open.has(details.dataset.include);
  }
  for (const gone of here.values()) gone.remove();
  document.title = main.ownerDocument.title;
  return Boolean(main.ownerDocument.body.dataset.live);
}

function listen(url) {
  for (const [id, part] of partsOf(document.getElementById("main"))) shown.set(id, part.outerHTML);
  let due = null;
  let busy = false;
  const look = async () => {
    due = null;
    if (busy) return later();
    busy = true;
    const goesOn = await refresh().catch(() => true); // the next change is another chance
    busy = false;
    if (!goesOn) end();
  };
  const later = () => (due ??= setTimeout(look, AT_MOST_EVERY * (1 + Math.random())));

  // Pages that nobody sees hold no stream. Of those that are seen, the STREAMS that began last do: each knows which
  // have begun since it has, and stands aside for so many.
  const me = `${Date.now()} ${Math.random()}`;
  const pages = new BroadcastChannel("uwsd-streams");
  const newer = new Set();
  let source = null;
  let isAside = false;
  let isOver = false;
  let heard = null; // the position up to which all is known, if any was told
  const stop = () => {
    if (!source) return;
    source.close();
    source = null;
    pages.postMessage({ ended: me });
  };
  const end = () => {
    isOver = true;
    stop();
  };
  const follow = () => {
    stop();
    if (document.hidden || isOver) return;
    newer.clear();
    isAside = false;
    pages.postMessage({ began: me });
    source = new EventSource(heard ? `${url.split("?")[0]}?after=${heard}` : url);
    for (const type of ["job", "queue", "reset", "end"]) {
      source.addEventListener(type, ({ lastEventId }) => {
        heard = lastEventId || heard;
        later();
      });
    }
    source.addEventListener("end", end);
    // By itself a browser comes back when a connection was lost, not when it was answered anything but 200.
    source.addEventListener("error", ({ target }) => {
      if (target !== source || target.readyState !== EventSource.CLOSED) return;
      stop();
      later();
      setTimeout(() => source || isAside || follow(), TRY_AGAIN);
    });
  };
  pages.addEventListener("message", ({ data }) => {
    if (data.began) newer.add(data.began);
    newer.delete(data.ended);
    if (source && newer.size >= STREAMS) {
      isAside = true;
      stop();
    } else if (isAside && newer.size < STREAMS) follow();
  });
  setInterval(() => isAside && !document.hidden && later(), TRY_AGAIN);
  addEventListener("focus", () => isAside && follow());
  document.addEventListener("visibilitychange", follow);
  addEventListener("pagehide", stop);
  follow();
}

// Fields of a parameter that takes several values: as many as are wanted

function addFields(several) {
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = "One more value";
  button.addEventListener("click", () => {
    const field = several.querySelector("input:last-of-type").cloneNode();
    field.value = "";
    button.before(field);
    field.focus();
  });
  several.append(button);
}

// SAMP (the Web Profile, SAMP 1.3 section 5): results are sent to whoever can show them

function xmlOf(value) {
  const document_ = document.implementation.createDocument(null, "value");
  const put = (parent, name) => parent.appendChild(document_.createElement(name));
  const write = (parent, item) => {
    if (typeof item === "string") put(parent, "string").textContent = item;
    else if (Array.isArray(item)) {
      const data = put(put(parent, "array"), "data");
      for (const one of item) write(put(data, "value"), one);
    } else {
      const struct = put(parent, "struct");
      for (const [name, one] of Object.entries(item)) {
        const member = put(struct, "member");
        put(member, "name").textContent = name;
        write(put(member, "value"), one);
      }
    }
  };
  write(document_.documentElement, value);
  return new XMLSerializer().serializeToString(document_);
}

async function callHub(method, ...values) {
  const params = values.map((value) => `<param>${xmlOf(value)}</param>`).join("");
  const body = `<?xml version="1.0"?><methodCall><methodName>samp.webhub.${method}</methodName><params>${params}</params></methodCall>`;
  const answer = await fetch(SAMP_HUB, { method: "POST", body, headers: { "Content-Type": "text/plain" } });
  const document_ = new DOMParser().parseFromString(await answer.text(), "text/xml");
  const fault = document_.querySelector("fault");
  if (fault || !answer.ok) throw new Error(fault?.textContent.trim() || "the hub has refused");
  return document_;
}

let registration = null;

async function register() {
  const answer = await callHub("register", { "samp.name": document.title });
  for (const member of answer.querySelectorAll("member")) {
    if (member.querySelector("name").textContent === "samp.private-key") {
      return member.querySelector("value").textContent.trim();
    }
  }
  throw new Error("the hub has given no key");
}

async function send(row, status) {
  const link = row.querySelector("a");
  status.textContent = "Asking the hub…";
  try {
    registration ??= register();
    const key = await registration;
    await callHub("notifyAll", key, {
      "samp.mtype": row.dataset.samp,
      "samp.params": { url: link.href, name: link.textContent },
    });
    status.textContent = `${link.textContent} was sent.`;
  } catch (error) {
    registration = null;
    status.textContent = `It could not be sent: ${error.message}`;
  }
}

async function offerSamp(root) {
  const rows = [...root.querySelectorAll("tr[data-samp]")].filter((row) => row.querySelector("a"));
  if (!rows.length) return;
  try {
    await callHub("ping");
  } catch {
    return; // there is no hub
  }
  for (const row of rows) {
    const button = document.createElement("button");
    const status = document.createElement("span");
    button.type = "button";
    button.textContent = "Send by SAMP";
    button.setAttribute("aria-label", `Send ${row.querySelector("a").textContent} to other programs by SAMP`);
    status.setAttribute("role", "status");
    button.addEventListener("click", () => send(row, status));
    row.lastElementChild.append(" ", button, " ", status);
  }
}

addEventListener("pagehide", () => registration?.then((key) => callHub("unregister", key)).catch(() => {}));

function prepare(root) {
  showTimes(root);
  prepareUnfolding(root);
  offerSamp(root);
  for (const several of root.querySelectorAll("[data-several]")) addFields(several);
}

if (document.body.dataset.live) listen(document.body.dataset.live);
prepare(document);
