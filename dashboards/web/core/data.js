// What a page asks for beyond its stream.

import { useEffect, useState } from "../vendor/preact.js";
import { get } from "./api.js";

const RETRY_S = 5;

// {data, error}: `path` is asked for when it changes, each `every` seconds, when `again` changes, and after no
// response; while the page is hidden, once it is shown. `timeout` (ms): of what may take long to compute. What was
// known stays until there is something new.
export function useGet(path, { every = 0, again = null, timeout } = {}) {
  const [got, set] = useState({ data: null, error: null, path: null });
  useEffect(() => {
    if (path === null) return undefined;
    const controller = new AbortController();
    let timer = null;
    let due = false; // since the page was hidden
    async function load() {
      let wait = every;
      due = document.hidden;
      if (!due) {
        try {
          const data = await get(path, controller.signal, timeout);
          set({ data, error: null, path });
        } catch (error) {
          if (controller.signal.aborted) return;
          set((before) => ({ data: before.path === path ? before.data : null, error, path }));
          if (!(error.status < 500)) wait ||= RETRY_S;
        }
      }
      if (wait && !due && !controller.signal.aborted) timer = setTimeout(load, wait * 1000);
    }
    const shown = () => due && load();
    document.addEventListener("visibilitychange", shown);
    load();
    return () => {
      document.removeEventListener("visibilitychange", shown);
      controller.abort();
      clearTimeout(timer);
    };
  }, [path, every, again]);
  return got.path === path ? got : { ...got, error: null };
}
