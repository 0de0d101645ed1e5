// What pages share: templates, asking the server, badges, sparklines, tables.

import htm from "./htm.js";
import { number, say } from "./words.js";

const { createElement, useEffect, useState, useMemo } = globalThis.React;
const { Badge, Box, Button, HStack, NativeSelect, Spinner, Table, Text } = globalThis.ChakraUI;

export const html = htm.bind(createElement);
export { useEffect, useMemo, useState };

/** An address of the plugin's, wherever Airflow is mounted. */
export const address = (path) => new URL(`esteira/${path}`, document.baseURI);

/** What the server answers: {found}, {error} or, until it has, {}. Asked again every minute, when the path (or "again") changes, and at once while `isPart` says so of it. */
export function useAnswer(path, isPart = () => false, again = 0) {
  const [answer, setAnswer] = useState({});
  useEffect(() => {
    if (!path) return undefined;
    let gone = false;
    let soon = 0;
    const ask = async () => {
      try {
        const response = await fetch(address(path));
        const body = await response.json().catch(() => ({}));
        if (gone) return;
        if (response.ok && isPart(body)) soon = setTimeout(ask, 300);
        const error = { status: response.status, text: inWords(body.detail) };
        setAnswer((before) => (response.ok ? { path, found: body } : response.status >= 500 ? { ...before, error } : { path, error }));
      } catch (error) {
        if (!gone) setAnswer((before) => ({ ...before, error: { status: 0, text: String(error) } }));
      }
    };
    setAnswer((before) => (before.path === path ? before : { path }));
    ask();
    const timer = setInterval(ask, 60_000);
    return () => { gone = true; clearInterval(timer); clearTimeout(soon); };
  }, [path, again]);
  return answer;
}

/** What is wrong, as text: an application's own sentence, or what a form's check has found. */
export function inWords(detail) {
  if (detail === undefined || detail === null || typeof detail === "string") return detail;
  return Array.isArray(detail) ? detail.map((each) => `${(each.loc ?? []).slice(-1)}: ${each.msg ?? JSON.stringify(each)}`).join("; ") : JSON.stringify(detail);
}

/** A page's content once the server has answered; else that it loads, or in words what is wrong. */
export function Answered({ answer, children }) {
  if (answer.found !== undefined) {
    return html`${children(answer.found)}${answer.error && html`<${Text} role="status" color="fg.muted" fontSize="sm">${say("This is as it was: the server does not answer now.")}<//>`}`;
  }
  if (!answer.error) return html`<${HStack} p=${4}><${Spinner} size="sm" /><${Text}>${say("loading")}<//><//>`;
  const { status, text } = answer.error;
  const said = status === 403 ? say("You may not see this.") : text || `HTTP ${status}`;
  return html`<${Box} role="alert" p=${4} borderWidth="1px" borderRadius="md" borderColor="border.error"><${Text} whiteSpace="pre-wrap">${said}<//><//>`;
}

const PALETTES = {
  "broken": "red", "late": "red", "not as published": "red", "warned": "red", "waiting for labels": "orange", "stale": "orange", "retraining": "blue",
  "recovered, not verified yet": "cyan", "drifting": "purple", "watch": "yellow", "not measured yet": "gray", "healthy": "green",
};

/** A model's state as a word in a colour. */
export function State({ of }) {
  return html`<${Badge} colorPalette=${PALETTES[of] ?? "gray"} variant="subtle">${say(of)}<//>`;
}

/** How a limit is written. */
export function range(limit) {
  const parts = [];
  if (limit?.min !== undefined && limit?.min !== null) parts.push(`≥ ${number(limit.min)}`);
  if (limit?.max !== undefined && limit?.max !== null) parts.push(`≤ ${number(limit.max)}`);
  return parts.join(" · ");
}

/** Values as a line, with what is out of range as dots, and the limit as a dashed line. */
export function Sparkline({ windows, limit, width = 120, height = 28 }) {
  const values = windows.map((each) => each.value).filter((value) => value !== null);
  if (!values.length) return html`<${Text} color="fg.muted">–<//>`;
  const bounds = [limit?.min, limit?.max].filter((each) => each !== undefined && each !== null);
  const low = Math.min(...values, ...bounds), high = Math.max(...values, ...bounds);
  const x = (index) => 3 + (index * (width - 6)) / Math.max(windows.length - 1, 1);
  const y = (value) => height - 3 - ((value - low) * (height - 6)) / (high - low || 1);
  const points = windows.map((each, index) => (each.value === null ? null : [x(index), y(each.value), each])).filter(Boolean);
  const said = points.map(([, , each]) => `${each.last}: ${number(each.value)}`).join(", ");
  return html`<svg width=${width} height=${height} role="img" aria-label=${said}>
    <title>${said}</title>
    ${bounds.map((bound) => html`<line key=${bound} x1="0" x2=${width} y1=${y(bound)} y2=${y(bound)} stroke="currentColor" opacity="0.35" strokeDasharray="3 3" />`)}
    <polyline fill="none" stroke="currentColor" strokeWidth="1.5" points=${points.map(([left, top]) => `${left},${top}`).join(" ")} />
    ${points.filter(([, , each]) => each.in_range === false).map(([left, top, each]) => html`<circle key=${each.last} cx=${left} cy=${top} r="2.5" fill="#e53e3e" />`)}
  </svg>`;
}

/** Rows as CSV, which a spreadsheet must not take for formulas. */
function csv(columns, rows) {
  const cell = (value) => {
    const text = value === null || value === undefined ? "" : String(value);
    const safe = /^[=+\-@\t\r]/.test(text) && Number.isNaN(Number(text)) ? `'${text}` : text;
    return /[",\n\r]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
  };
  return [columns.map((each) => each.name), ...rows.map((row) => columns.map((each) => each.plain ? each.plain(row) : each.of(row)))]
    .map((line) => line.map(cell).join(",")).join("\r\n");
}

function download(name, text) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type: "text/csv;charset=utf-8" }));
  link.download = name;
  link.click();
  URL.revokeObjectURL(link.href);
}

/** A table: columns are {name, of(row), show(row)?, plain(row)?}; a click on a head sorts by it. */
export function Rows({ columns, rows, keyOf, name, first = null }) {
  const [order, setOrder] = useState(first);
  const sorted = useMemo(() => {
    if (!order) return rows;
    const by = columns.find((each) => each.name === order.name);
    if (!by) return rows;
    const compare = (a, b) => {
      const [left, right] = [by.of(a), by.of(b)];
      if (left === right) return 0;
      if (left === null || left === undefined) return 1;
      if (right === null || right === undefined) return -1;
      return (left < right ? -1 : 1) * (order.down ? -1 : 1);
    };
    return [...rows].sort(compare);
  }, [rows, order, columns]);
  if (!rows.length) return html`<${Text} color="fg.muted">${say("nothing")}<//>`;
  const sort = (column) => setOrder((before) => ({ name: column, down: before?.name === column && !before.down }));
  return html`<${Box} overflowX="auto">
    <${Table.Root} size="sm" variant="line">
      <${Table.Header}><${Table.Row}>
        ${columns.map((each) => html`<${Table.ColumnHeader} key=${each.name} aria-sort=${order?.name === each.name ? (order.down ? "descending" : "ascending") : "none"}>
          ${each.name && html`<button type="button" onClick=${() => sort(each.name)}>${say(each.name)}${order?.name === each.name ? (order.down ? " ↓" : " ↑") : ""}</button>`}<//>`)}
      <//><//>
      <${Table.Body}>
        ${sorted.map((row, index) => html`<${Table.Row} key=${keyOf ? keyOf(row) : index}>
          ${columns.map((each) => html`<${Table.Cell} key=${each.name} verticalAlign="top">${each.show ? each.show(row) : shown(each.of(row))}<//>`)}
        <//>`)}
      <//>
    <//>
    ${name && html`<${Button} size="xs" variant="ghost" onClick=${() => download(`${name}.csv`, csv(columns, sorted))}>${say("CSV")}<//>`}
  <//>`;
}

function shown(value) {
  if (value === null || value === undefined || value === "") return "–";
  return typeof value === "number" ? number(value) : String(value);
}

/** A choice of values, {value: label}. */
export function Choice({ label, value, options, onChange }) {
  return html`<${NativeSelect.Root} size="sm" width="auto"><${NativeSelect.Field} aria-label=${label} value=${value} onChange=${(event) => onChange(event.target.value)}>
    ${Object.entries(options).map(([each, text]) => html`<option key=${each} value=${each}>${text}</option>`)}
  <//><${NativeSelect.Indicator} /><//>`;
}
