// What the server says about problems, in the page's language. The server speaks English, to terminals and logs too; here
// its sentences are known again by their shape among the templates of the language, and the values in them stay.
(() => {
    "use strict";
    if (window.loraExtSaid) return;

    const ENOUGH = 10; // letters of a template beside its values, that it may be known by
    const table = () => window.localization || {};
    let shapes = {of: null, list: []};

    const escaped = (text) => text.replace(/[.*+?^${}()|[\]\\]/g, "\\$&");

    // Templates with values in them as patterns, those that say most first.
    function known() {
        if (shapes.of === table()) return shapes.list;
        const list = Object.keys(table()).filter((key) => /\{\d\}/.test(key)).map((key) => {
            const parts = key.split(/\{(\d)\}/);
            const pattern = parts.map((part, i) => (i % 2 ? "(.+?)" : escaped(part))).join("");
            const weight = parts.filter((_, i) => i % 2 === 0).join("").replace(/\P{L}/gu, "").length;
            return {key, weight, pattern: new RegExp(`^${pattern}$`, "s"), order: parts.filter((_, i) => i % 2).map(Number)};
        });
        shapes = {of: table(), list: list.filter((one) => one.weight >= ENOUGH).sort((a, b) => b.weight - a.weight)};
        return shapes.list;
    }

    const lower = (text) => text.slice(0, 1).toLowerCase() + text.slice(1);
    const upper = (text) => text.slice(0, 1).toUpperCase() + text.slice(1);

    // A text that is one template as a whole; null when there is none. Sentences begin large, what they are made of small.
    function phrase(text) {
        const found = exact(text);
        if (found !== null || lower(text) === text) return found;
        const small = exact(lower(text));
        return small === null ? null : upper(small);
    }

    function exact(text) {
        if (Object.hasOwn(table(), text)) return table()[text];
        for (const {key, pattern, order} of known()) {
            const match = pattern.exec(text);
            if (!match) continue;
            const values = [];
            order.forEach((n, i) => {
                const [value, label] = [match[i + 1], i === 0 && key.startsWith("{0} ")]; // names of files stay as they are
                values[n] = label || value.includes(" ") ? said(value) : value;
            });
            return window.loraExt.t(key, ...values);
        }
        return null;
    }

    // `what; expected this; got that.`, each of which may be known.
    function clauses(text) {
        const [, what, expected, got, stop] = /^(.*?)(?:[;,] expected (.*?))?(?:; got (.*?))?(\.?)$/s.exec(text);
        const known = phrase(what);
        if (known === null) return text;
        const {t} = window.loraExt;
        let made = known;
        if (expected) made = t("{0}; expected {1}", made, phrase(expected) ?? expected);
        if (got) made = t("{0}; got {1}", made, got);
        return stop ? t("{0}.", made) : made;
    }

    const sentence = (text) => phrase(text) ?? clauses(text);

    function said(text) {
        if (!window.localization || !text) return text;
        return text.split("\n").map((line) => phrase(line) ?? sentences(line).map(sentence).join(" ")).join("\n");
    }

    // A path may hold a stop, too: what comes after `got` is a sentence of its own only when it is known.
    function sentences(line) {
        const found = [];
        for (const part of line.split(/(?<=[.!?]) (?=\p{Lu})/u)) {
            if (found.at(-1)?.includes("; got ") && phrase(part) === null) found.push(`${found.pop()} ${part}`);
            else found.push(part);
        }
        return found;
    }

    window.loraExtSaid = said;
})();
