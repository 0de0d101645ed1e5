// One row of a day: what was predicted, by which version, its label, its features, and what each of them adds.

import { Answered, Rows, html, useAnswer, useState } from "./parts.js";
import { moment, number, say } from "./words.js";

const { Box, Button, HStack, Input, Text } = globalThis.ChakraUI;

/** A form for a day and a key: a row explained, or where a part of the key is left open the rows that there are. */
export function OneRow({ model, found }) {
  const [day, setDay] = useState(found.health.last_scored ?? "");
  const [key, setKey] = useState({});
  const [asked, setAsked] = useState({ one: "", every: "" });
  const [one, every] = [useAnswer(asked.one), useAnswer(asked.every)];
  const ask = (chosen) => {
    const known = found.key.filter((name) => chosen[name]);
    const query = new URLSearchParams({ day });
    known.forEach((name) => query.append("key", `${name}=${chosen[name]}`));
    const path = (kind) => `models/${encodeURIComponent(`${model}_check`)}/${kind}?${query}`;
    setAsked(known.length === found.key.length ? { one: path("row"), every: "" } : { one: "", every: path("rows") });
  };
  const explain = (row) => { const chosen = Object.fromEntries(found.key.map((name) => [name, String(row[name])])); setKey(chosen); ask(chosen); };
  return html`<${Box} borderWidth="1px" borderRadius="md" p=${3} flex="1" minW="min(24rem, 100%)">
    <form onSubmit=${(event) => { event.preventDefault(); ask(key); }}><${HStack} gap=${2} wrap="wrap">
      <${Input} type="date" size="sm" width="10rem" required min="1900-01-01" max="9999-12-31" aria-label=${say("Day")} value=${day} onChange=${(event) => setDay(event.target.value)} />
      ${found.key.map((name) => html`<${Input} key=${name} size="sm" width="11rem" placeholder=${name} aria-label=${name} value=${key[name] ?? ""}
        onChange=${(event) => setKey({ ...key, [name]: event.target.value })} />`)}
      <${Button} size="sm" variant="outline" type="submit">${say("Explain a row")}<//>
    <//></form>
    ${asked.one && html`<${Box} mt=${3}><${Answered} answer=${one}>${(row) => html`<${Row} row=${row} />`}<//><//>`}
    ${asked.every && html`<${Box} mt=${3} maxH="24rem" overflowY="auto"><${Answered} answer=${every}>${(rows) => html`<${Found} rows=${rows} names=${found.key} explain=${explain} model=${model} />`}<//><//>`}
  <//>`;
}

/** The rows of a day, of which each can be explained. */
function Found({ rows, names, explain, model }) {
  const columns = [...names, "prediction", "probability", "version", "label"].filter((name) => rows.some((row) => row[name] !== undefined && row[name] !== null))
    .map((name) => ({ name, of: (row) => row[name] }));
  const first = { name: "", of: () => null, show: (row) => html`<${Button} size="xs" variant="ghost" onClick=${() => explain(row)}>${say("Explain")}<//>` };
  return html`<${Rows} rows=${rows} columns=${[first, ...columns]} name=${`${model}-rows`} />`;
}

function Row({ row }) {
  const most = Math.max(...Object.values(row.shares).map(Math.abs), 0) || 1;
  return html`<${Box} fontSize="sm">
    ${row.predictions.map((each, index) => html`<${Text} key=${index}>${say(each.published ? "published" : "served first")}: <b>${typeof each.prediction === "number" ? number(each.prediction) : each.prediction}</b>
      ${each.probability === null ? "" : ` (${number(each.probability)})`}, v${each.version}, ${each.run}<//>`)}
    <${Text}>${say("label")}: <b>${row.label === null ? say("not known yet") : typeof row.label === "number" ? number(row.label) : row.label}</b>${row.label_seen ? `, ${moment(row.label_seen)}` : ""}<//>
    <${Text} mt=${2}>${say("mean of the four weeks before")}: ${number(row.base)}<//>
    <table style=${{ width: "100%" }}><thead><tr>${["feature", "value", "adds"].map((each) => html`<th key=${each} style=${{ textAlign: "left" }}>${say(each)}</th>`)}<th /></tr></thead>
      <tbody>${Object.entries(row.shares).map(([name, share]) => html`<tr key=${name}><td>${name}</td><td>${typeof row.features[name] === "number" ? number(row.features[name]) : String(row.features[name] ?? "–")}</td>
        <td>${share > 0 ? "+" : ""}${number(share)}</td><td style=${{ width: "40%" }}><div style=${{ height: "0.7rem", width: `${(100 * Math.abs(share)) / most}%`, background: share > 0 ? "#3182ce" : "#dd6b20" }} /></td></tr>`)}</tbody></table>
  <//>`;
}
