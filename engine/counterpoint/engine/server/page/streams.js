// Which of the streams of predictions is shown. Pure.

/**
 * The stream to show: the one selected (null: the whole session) if it is there, else the whole
 * session, else the first. `names` holds null for the session's.
 */
export function chosenStream(names, selected) {
  if (names.includes(selected)) return selected;
  return names.includes(null) ? null : (names[0] ?? null);
}
