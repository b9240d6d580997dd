// The gateway's event stream, read by fetch: unlike EventSource that shows the status of a refusal, and takes
// every kind of event.

const PAUSES = [1000, 2000, 5000, 10_000];

export class Stream {
  constructor(path, onEvent) {
    this.path = path;
    this.onEvent = onEvent;
    this.last = null;
    this.controller = null;
  }

  start() {
    if (this.controller) return;
    this.controller = new AbortController();
    this.#run(this.controller.signal);
  }

  stop() {
    this.controller?.abort();
    this.controller = null;
  }

  async #run(signal) {
    for (let failures = 0; !signal.aborted; ) {
      try {
        await this.#read(signal);
        failures = 0;
      } catch (error) {
        if (signal.aborted) return;
        if (error.status === 401 || error.status === 403) return; // the polling says so
        failures += 1;
      }
      await pause(PAUSES[Math.min(failures, PAUSES.length - 1)], signal);
    }
  }

  async #read(signal) {
    const headers = { accept: "text/event-stream" };
    if (this.last !== null) headers["last-event-id"] = this.last;
    const answer = await fetch(`../${this.path}`, { headers, signal, cache: "no-store", credentials: "same-origin" });
    if (!answer.ok) throw Object.assign(new Error("refused"), { status: answer.status });
    const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
    let text = "";
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      text += value;
      const blocks = text.split("\n\n");
      text = blocks.pop();
      for (const block of blocks) this.#block(block);
    }
  }

  #block(block) {
    let data = "";
    for (const line of block.split("\n")) {
      if (line.startsWith("id: ")) this.last = line.slice(4);
      else if (line.startsWith("data: ")) data += line.slice(6);
    }
    if (data) this.onEvent(JSON.parse(data));
  }
}

function pause(ms, signal) {
  return new Promise((done) => {
    const timer = setTimeout(done, ms);
    signal.addEventListener("abort", () => (clearTimeout(timer), done()), { once: true });
  });
}
