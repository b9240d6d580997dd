// What a page asks for beyond its stream.

import { useEffect, useState } from "../vendor/preact.js";
import { get } from "./api.js";

// {data, error}: `path` is asked for when it changes, each `every` seconds, and when `again` changes; not while the
// page is hidden. `timeout` (ms): of what may take long to compute. What was known stays until there is something new.
export function useGet(path, { every = 0, again = null, timeout } = {}) {
  const [got, set] = useState({ data: null, error: null, path: null });
  useEffect(() => {
    if (path === null) return undefined;
    const controller = new AbortController();
    let timer = null;
    async function load() {
      if (!document.hidden) {
        try {
          const data = await get(path, controller.signal, timeout);
          set({ data, error: null, path });
        } catch (error) {
          if (controller.signal.aborted) return;
          set((before) => ({ data: before.path === path ? before.data : null, error, path }));
        }
      }
      if (every && !controller.signal.aborted) timer = setTimeout(load, every * 1000);
    }
    load();
    return () => {
      controller.abort();
      clearTimeout(timer);
    };
  }, [path, every, again]);
  return got.path === path ? got : { ...got, error: null };
}
