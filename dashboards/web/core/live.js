// The one stream of a page: its view, what changes in it, and the events that concern it. Read by fetch: unlike
// EventSource that shows the status of a refusal.

import { Refused, stream, Unreachable } from "./api.js";

const PAUSES_MS = [1000, 2000, 5000, 10_000];
export const SILENCE_MS = 25_000; // the gateway sends a heartbeat each ten seconds

// on: {patch(changes), event(event), alive(), ended(): the gateway ended the stream, lost(error)}
export class Live {
  constructor(path, on) {
    this.path = path;
    this.on = on;
    this.last = null;
    this.controller = new AbortController();
    this.#run(this.controller.signal);
  }

  stop() {
    this.controller.abort();
  }

  async #run(signal) {
    for (let failures = 0; !signal.aborted; ) {
      const began = Date.now();
      try {
        await this.#read(signal);
        this.on.ended();
      } catch (error) {
        if (signal.aborted) return;
        // What a browser says of a stream that broke is not for people.
        this.on.lost(error instanceof Refused ? error : new Unreachable("The gateway does not respond."));
      }
      failures = Date.now() - began > 5000 ? 0 : failures + 1;
      await pause(PAUSES_MS[Math.min(failures, PAUSES_MS.length - 1)], signal);
    }
  }

  async #read(signal) {
    const silence = new AbortController();
    const either = AbortSignal.any([signal, silence.signal]);
    const headers = this.last === null ? {} : { "last-event-id": this.last };
    const heard = (promise) => {
      const timer = setTimeout(() => silence.abort(), SILENCE_MS);
      return promise.finally(() => clearTimeout(timer));
    };
    const response = await heard(stream(this.path, headers, either)); // a gateway that hangs accepts connections, too
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    let fresh = true; // the first view of a connection is whole
    let text = "";
    for (;;) {
      const { done, value } = await heard(reader.read());
      if (done) return;
      this.on.alive();
      text += value;
      const blocks = text.split("\n\n");
      text = blocks.pop();
      for (const block of blocks) fresh = this.#block(block, fresh);
    }
  }

  #block(block, fresh) {
    let data = "";
    let kind = "";
    for (const line of block.split("\n")) {
      if (line.startsWith("id: ")) this.last = line.slice(4);
      else if (line.startsWith("event: ")) kind = line.slice(7);
      else if (line.startsWith("data: ")) data += line.slice(6);
    }
    if (!data) return fresh;
    if (kind !== "view") this.on.event(JSON.parse(data));
    else this.on.patch(JSON.parse(data), fresh);
    return fresh && kind !== "view";
  }
}

function pause(ms, signal) {
  return new Promise((done) => {
    const end = () => {
      clearTimeout(timer);
      signal.removeEventListener("abort", end); // a page may be open for days
      done();
    };
    const timer = setTimeout(end, ms);
    signal.addEventListener("abort", end);
  });
}
