// A caption as alt text: one plain sentence of at most 125 characters that tells nobody's gender.

const MOST = 125;
const SURE = 0.5;
const NOTICE = "Machine-made: ";
const NEUTRAL = {
  man: "person", woman: "person", guy: "person", lady: "person", gentleman: "person", male: "", female: "",
  men: "people", women: "people", guys: "people", ladies: "people", gentlemen: "people", boy: "child", girl: "child",
  boys: "children", girls: "children", his: "their", her: "their", he: "they", she: "they", him: "them",
  himself: "themselves", herself: "themselves",
};
const WORDS = new RegExp(`\\b(${Object.keys(NEUTRAL).join("|")})\\b`, "gi");

/** `confidence` below a half, or unknown, puts the notice first. */
export function altText({ text, confidence }) {
  let plain = text.replace(WORDS, (word) => NEUTRAL[word.toLowerCase()]).replace(/\s+/g, " ").replace(/[.\s]+$/, "").trim();
  const notice = confidence != null && confidence >= SURE ? "" : NOTICE;
  const room = MOST - notice.length - 1;
  if (plain.length > room) plain = plain.slice(0, room).replace(/\s+\S*$/, "");
  return `${notice}${plain.charAt(0).toUpperCase()}${plain.slice(1)}.`;
}
