// Eight hues that stay apart for colour-blind eyes, on light and on dark (see style.css). A variant keeps the
// colour of its place in the configuration, whatever is shown.

const HUES = 8;

export function palette(names) {
  const places = new Map(names.map((name, k) => [name, k]));
  return (name) => `var(--hue-${(places.get(name) ?? HUES - 1) % HUES})`;
}
