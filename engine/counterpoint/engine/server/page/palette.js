// Which colour a label has. The seven colours (style.css) were searched for distance under normal
// sight, protanopia, deuteranopia and tritanopia, at a contrast of 3:1 to the surface. Colours are
// never alone: every band and bar has its label.

export const SLOTS = 7;

const KNOWN = {
  neutral: 0, happy: 1, sad: 2, angry: 3, fear: 4, disgust: 5, surprise: 6,
  negative: 3, positive: 6,
};

/** Colour slots (0..6) for a head's labels, in their order; each its own while they last. */
export function slots(labels) {
  const taken = new Set();
  const given = labels.map((label) => {
    const slot = Object.hasOwn(KNOWN, label) ? KNOWN[label] : null;
    if (slot === null || taken.has(slot)) return null;
    taken.add(slot);
    return slot;
  });
  const free = [1, 2, 3, 4, 5, 6, 0].filter((slot) => !taken.has(slot));
  return given.map((slot, index) => slot ?? free.shift() ?? index % SLOTS);
}
