// A variant's looks: colour, dash and letter, by its place in the configuration. The hues are those of Okabe & Ito,
// which stay apart for colour-blind eyes; the dash and the letter say the same without any colour.

const HUES = 8;
const DASHES = [[], [7, 4], [2, 3], [9, 3, 2, 3], [12, 4], [4, 2, 4, 6], [1, 4], [8, 2, 1, 2, 1, 2]];

export function palette(names) {
  const places = new Map(names.map((name, k) => [name, k]));
  return (name) => {
    const place = places.get(name) ?? HUES - 1;
    return {
      hue: `var(--hue-${place % HUES})`,
      ink: `var(--ink-${place % HUES}, #000)`,
      property: `--hue-${place % HUES}`,
      dash: DASHES[place % HUES],
      letter: String.fromCharCode(65 + (place % 26))
    };
  };
}
