// Which pictures of step 1 are shown, in which order, and which are chosen.
(() => {
    "use strict";
    const pics = (window.loraExtPictures ||= {});
    if (pics.sort) return;
    const {state} = pics;
    const part = (name) => pics.part(name);

    const collator = new Intl.Collator(undefined, {numeric: true, sensitivity: "base"});
    const WEIGHT = ["unreadable", "encoding", "no_caption", "small", "cut", "alike", "shared", "rotated"];
    const worst = (entry) => Math.min(WEIGHT.length, ...entry.problems.map((p) => WEIGHT.indexOf(p.kind)));
    const area = (size) => size[0] * size[1];
    const text = (entry) => entry.text || "";

    const ORDERS = {
        name: () => 0,
        caption: (a, b) => collator.compare(text(a), text(b)),
        length: (a, b) => text(b).length - text(a).length,
        size: (a, b) => area(b.size) - area(a.size),
        bucket: (a, b) => area(b.bucket) - area(a.bucket) || b.bucket[0] - a.bucket[0],
        problems: (a, b) => worst(a) - worst(b),
    };

    const tagsOf = (entry) => text(entry).split("\n").flatMap((line) => line.split(state.separator)).map((tag) => tag.trim()).filter(Boolean);

    function passes(entry, words, filter, tags) {
        if (filter === "problem" && !entry.problems.length) return false;
        if (filter === "changed" && !entry.changed) return false;
        if (filter === "selected" && !state.selected.has(entry.id)) return false;
        if (pics.kinds.includes(filter) && !entry.problems.some((p) => p.kind === filter)) return false;
        if (tags.length) {
            const own = new Set(tagsOf(entry));
            if (!tags.every((tag) => own.has(tag))) return false;
        }
        const all = `${entry.name}\n${text(entry)}`.toLowerCase();
        return words.every((word) => all.includes(word));
    }

    function sort() {
        const words = part("search").value.toLowerCase().split(/\s+/).filter(Boolean);
        const filter = part("filter").value;
        const tags = [...state.tags];
        const order = ORDERS[part("sort").value];
        const found = [...state.entries.values()].filter((entry) => passes(entry, words, filter, tags));
        found.sort((a, b) => order(a, b) || collator.compare(a.name, b.name));
        state.shown = found.map((entry) => entry.id);
        if (state.cursor !== null && !state.entries.has(state.cursor)) state.cursor = null;
    }

    // The pictures that a change of many is about: those selected, else all that are shown.
    function scope() {
        const chosen = state.shown.filter((id) => state.selected.has(id));
        const hidden = state.selected.size - chosen.length;
        return {numbers: state.selected.size ? [...state.selected] : state.shown, selected: state.selected.size, hidden};
    }

    function choose(id, {range = false, toggle = false, see = true} = {}) {
        pics.commit();
        if (range && state.anchor !== null) {
            const [from, to] = [state.shown.indexOf(state.anchor), state.shown.indexOf(id)].sort((a, b) => a - b);
            if (from >= 0) state.shown.slice(from, to + 1).forEach((one) => state.selected.add(one));
        } else {
            state.anchor = id;
        }
        if (toggle) state.selected.has(id) ? state.selected.delete(id) : state.selected.add(id);
        state.cursor = id;
        if (see) pics.bringToSight(id);
        pics.drawAll([]);
        pics.showDetail();
    }

    function refilter() {
        sort();
        part("grid").scrollTop = 0;
        if (state.shown.length && !state.shown.includes(state.cursor)) choose(state.shown[0]);
        pics.drawAll([]);
        pics.bringToSight(state.cursor);
    }

    Object.assign(pics, {sort, scope, choose, refilter, text, tagsOf});
})();
