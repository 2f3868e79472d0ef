// The cards of the Lora page: a click puts a LoRA into the prompt and takes it out again, and a window tells all that
// is known of it and keeps the user's notes. Every text is a stranger's: it is only ever set as text, never as markup.
(() => {
    "use strict";
    if (window.loraExtLibraryLoaded || typeof gradioApp !== "function") return;
    window.loraExtLibraryLoaded = true;

    // Every text of the window.
    const TEXT = {
        reading: "Reading…",
        failed: "The server did not answer.",
        close: "Close",
        save: "Save",
        saved: "Saved.",
        unchanged: "Nothing was changed.",
        notes: "Your notes",
        description: "Description",
        version: "Model it is for",
        detected: "as the file says",
        activation: "Trigger words",
        activationHint: "Put into the prompt after the tag.",
        weight: "Preferred strength",
        weightHint: "0 means the WebUI's default.",
        negative: "Negative prompt",
        remarks: "Notes",
        picture: "Use the gallery's picture",
        noPicture: "There is no picture in the gallery. Make one first.",
        file: "File",
        training: "Training",
        noTraining: "The file does not tell how it was trained.",
        tags: "Words of its captions",
        tagsHint: "By how often they came. Click one to add it to the trigger words, or to take it out.",
        suggested: "in nearly every caption",
        random: "Random prompt of them",
        chart: "Strength by block",
        chartHint: "How much each block of the loaded model is changed at strength 1 (Frobenius norm).",
        measure: "Measure",
        measuring: "Measuring…",
        hash: "Compute SHA256",
        hashing: "Reading the file…",
        damaged: "This file is damaged: ",
    };
    const TABS = ["txt2img", "img2img"];
    const BASE = "lora-ext/v1/page/card/";

    const find = (selector) => gradioApp().querySelector(selector);

    function make(tag, className, text) {
        const element = document.createElement(tag);
        if (className) element.className = className;
        if (text !== undefined) element.textContent = text;
        return element;
    }

    function put(parent, ...children) {
        children.filter(Boolean).forEach((child) => parent.appendChild(child));
        return parent;
    }

    // ---- asking -----------------------------------------------------------------------------------------------

    async function ask(path, body) {
        const headers = {"content-type": "application/json", "x-lora-ext-key": find(".lora-ext-foot").dataset.key};
        const answer = await fetch(BASE + path, {method: "POST", headers, body: JSON.stringify(body)}).catch(() => null);
        const content = answer === null ? null : await answer.json().catch(() => null);
        if (answer !== null && answer.ok && content !== null) return content;
        throw new Error(content && content.problems ? content.problems.join("\n") : TEXT.failed);
    }

    // ---- the prompt -------------------------------------------------------------------------------------------

    const escaped = (text) => text.replace(/[.*+?^${}()|[\]\\]/g, "\\$&");

    function without(text, part) {
        const gap = opts.extra_networks_add_text_separator || "";
        for (const found of [gap + part, part]) {
            const at = text.indexOf(found);
            if (found && at >= 0) return text.slice(0, at) + text.slice(at + found.length);
        }
        return text;
    }

    function write(box, text) {
        box.value = text;
        updateInput(box);
    }

    function toggle(tab, data) {
        const prompt = find(`#${tab}_prompt textarea`);
        const negative = find(`#${tab}_neg_prompt textarea`);
        const gap = opts.extra_networks_add_text_separator || "";
        const words = data.words ? " " + data.words : "";
        const avoided = data.negative ? `(${data.negative}:1)` : "";
        const there = prompt.value.match(new RegExp(`<(?:lora|lyco):${escaped(data.tag)}(?::[^>]*)?>`));
        if (there) {
            const whole = prompt.value.includes(there[0] + words) ? there[0] + words : there[0];
            write(prompt, without(prompt.value, whole));
            if (avoided) write(negative, without(negative.value, avoided));
            return;
        }
        const strength = data.weight || opts.extra_networks_default_multiplier;
        write(prompt, `${prompt.value}${gap}<lora:${data.tag}:${strength}>${words}`);
        if (avoided && !negative.value.includes(avoided)) write(negative, negative.value + gap + avoided);
    }

    // ---- clicks -----------------------------------------------------------------------------------------------

    const tabOf = (element) => TABS.find((tab) => element.closest(`#${tab}_lora`) || element.closest(`#${tab}_lora_pane`));

    function clicked(event) {
        const place = event.target.closest(".lora-ext-card, .lora-ext-leaf, .extra-network-tree .tree-list-content-dir");
        const tab = place && tabOf(place);
        if (!tab) return;
        const button = event.target.closest(".card-button");
        if (!place.dataset.tag) {
            openFolder(event, place, tab);
        } else if (!button) {
            if (!event.target.closest("a, ul.lora-ext-keep")) toggle(tab, place.dataset);
        } else if (button.classList.contains("copy-path-button")) {
            navigator.clipboard.writeText(button.dataset.clipboardText);
        } else if (button.classList.contains("metadata-button")) {
            showMetadata(place.dataset.name);
        } else if (button.classList.contains("edit-button")) {
            show(tab, place.dataset.name);
        }
    }

    // The host's function takes the clicked row from its second argument.
    function openFolder(event, row, tab) {
        if (typeof extraNetworksTreeProcessDirectoryClick === "function" && row.closest(`#${tab}_lora_tree`)) {
            extraNetworksTreeProcessDirectoryClick(event, row, tab, "lora");
        }
    }

    async function showMetadata(name) {
        const answer = await fetch(`./sd_extra_networks/metadata?page=lora&item=${encodeURIComponent(name)}`);
        const content = await answer.json().catch(() => ({}));
        extraNetworksShowMetadata(content.metadata || TEXT.failed);
    }

    document.addEventListener("click", clicked);

    // ---- the window -------------------------------------------------------------------------------------------

    async function show(tab, name) {
        const box = make("div", "lora-ext-window");
        box.setAttribute("role", "dialog");
        box.setAttribute("aria-label", name);
        box.tabIndex = -1;
        put(box, make("p", "lora-ext-quiet", TEXT.reading));
        popup(box);
        box.focus();
        try {
            draw(box, tab, await ask("info", {name}));
        } catch (error) {
            box.replaceChildren(make("p", "lora-ext-window-bad", error.message));
        }
    }

    function draw(box, tab, info) {
        const form = notesForm(tab, info);
        const title = make("h2", "", info.name);
        title.dir = "auto";
        const version = info.foreign || info.version;
        const badge = make("span", `lora-ext-badge lora-ext-${info.foreign ? "foreign" : version.toLowerCase()}`, version);
        const side = put(make("div", "lora-ext-side"), picture(tab, info), fileFacts(info));
        const main = put(make("div", "lora-ext-main"), form.element, tags(info, form.activation), training(info), chart(info));
        const head = put(make("div", "lora-ext-window-head"), title, badge);
        const damage = info.damage ? make("p", "lora-ext-window-bad", TEXT.damaged + info.damage) : null;
        box.replaceChildren();
        put(box, head, damage, put(make("div", "lora-ext-columns"), main, side));
    }

    function section(title, hint) {
        return put(make("section"), make("h3", "", title), hint ? make("p", "lora-ext-quiet", hint) : null);
    }

    function field(label, input, hint) {
        input.dir = "auto";
        const head = make("span", "", label);
        return put(make("label", "lora-ext-field"), head, hint ? make("small", "lora-ext-quiet", hint) : null, input);
    }

    function area(value, rows) {
        const input = make("textarea");
        input.rows = rows;
        input.value = value;
        return input;
    }

    function line(value) {
        const input = make("input");
        input.type = "text";
        input.value = value;
        return input;
    }

    function notesForm(tab, info) {
        const notes = info.notes;
        const inputs = {
            description: area(notes.description, 3),
            activation: line(notes.activation),
            weight: line(String(notes.weight)),
            negative: line(notes.negative),
            version: make("select"),
            notes: area(notes.notes, 3),
        };
        inputs.weight.type = "number";
        Object.assign(inputs.weight, {step: "0.05", min: "-2", max: "2"});
        for (const [value, text] of [["", TEXT.detected], ..."SD1 SD2 SDXL Unknown".split(" ").map((v) => [v, v])]) {
            const option = make("option", "", text);
            option.value = value;
            put(inputs.version, option);
        }
        inputs.version.value = notes.version;
        const status = make("span", "lora-ext-status");
        status.setAttribute("role", "status");
        const save = button(TEXT.save, "primary", () => saveNotes(tab, info, inputs, status));
        const pair = put(make("div", "lora-ext-pair"),
            field(TEXT.weight, inputs.weight, TEXT.weightHint), field(TEXT.version, inputs.version, ""));
        const element = put(section(TEXT.notes),
            field(TEXT.activation, inputs.activation, TEXT.activationHint), pair, field(TEXT.negative, inputs.negative),
            field(TEXT.description, inputs.description), field(TEXT.remarks, inputs.notes),
            put(make("div", "lora-ext-buttons"), save, button(TEXT.close, "secondary", closePopup), status));
        return {element, activation: inputs.activation};
    }

    function button(text, kind, action) {
        const element = make("button", `lg ${kind} gradio-button custom-button`, text);
        element.type = "button";
        element.addEventListener("click", action);
        return element;
    }

    async function saveNotes(tab, info, inputs, status) {
        const notes = {};
        for (const [name, input] of Object.entries(inputs)) {
            const value = name === "weight" ? Number(input.value) || 0 : input.value;
            if (value !== info.notes[name]) notes[name] = value;
        }
        status.className = "lora-ext-status";
        try {
            const answer = await ask("notes", {name: info.name, notes});
            Object.assign(info.notes, notes);
            status.textContent = answer.changed.length ? TEXT.saved : TEXT.unchanged;
            await redraw(info.name);
        } catch (error) {
            status.className = "lora-ext-status lora-ext-window-bad";
            status.textContent = error.message;
        }
    }

    // The card anew, in both tabs. It is the server's own markup.
    async function redraw(name) {
        for (const tab of TABS) {
            const old = [...gradioApp().querySelectorAll(`#${tab}_lora_cards .card`)].filter((c) => c.dataset.name === name);
            if (!old.length) continue;
            const query = new URLSearchParams({page: "lora", tabname: tab, name});
            const answer = await fetch(`./sd_extra_networks/get-single-card?${query}`, {cache: "no-store"});
            const content = answer.ok ? await answer.json() : {};
            const place = make("template");
            place.innerHTML = content.html || "";
            const card = place.content.firstElementChild;
            if (card) old.forEach((one) => one.replaceWith(card.cloneNode(true)));
        }
    }

    function picture(tab, info) {
        const frame = make("div", "lora-ext-picture");
        const status = make("p", "lora-ext-status");
        const image = make("img");
        image.alt = "";
        const set = (url) => {
            image.hidden = !url;
            if (url) image.src = url;
        };
        set(info.preview);
        const replace = button(TEXT.picture, "secondary", async () => {
            const chosen = selected(tab);
            status.textContent = chosen ? "" : TEXT.noPicture;
            if (!chosen) return;
            try {
                set((await ask("preview", {name: info.name, image: chosen})).preview);
                await redraw(info.name);
            } catch (error) {
                status.textContent = error.message;
            }
        });
        return put(frame, image, replace, status);
    }

    // Path of the picture chosen in the tab's gallery, or of its first one.
    function selected(tab) {
        const gallery = find(`#${tab}_gallery`);
        const image = gallery && (gallery.querySelector(".preview > img, .preview img.w-full, .preview img")
            || gallery.querySelector(".thumbnail-item img, img"));
        const found = image && decodeURIComponent(new URL(image.src).pathname + "").match(/file=(.*)$/);
        return found ? found[1] : "";
    }

    function table(rows) {
        const element = make("table", "lora-ext-table");
        for (const [label, value] of rows) {
            const cell = make("td", "", value);
            cell.dir = "auto";
            put(element, put(make("tr"), make("th", "", label), cell));
        }
        return element;
    }

    function fileFacts(info) {
        const part = section(TEXT.file);
        let rows = table(info.facts);
        put(part, rows);
        if (info.facts.some(([label]) => label === "SHA256")) return part;
        const compute = button(TEXT.hash, "secondary", async () => {
            compute.textContent = TEXT.hashing;
            compute.disabled = true;
            try {
                const more = await ask("hashes", {name: info.name});
                const whole = table([...info.facts, ...more.rows]);
                rows.replaceWith(whole);
                rows = whole;
                compute.remove();
            } catch (error) {
                compute.textContent = error.message;
            }
        });
        return put(part, compute);
    }

    function training(info) {
        const part = section(TEXT.training);
        return put(part, info.training.length ? table(info.training) : make("p", "lora-ext-quiet", TEXT.noTraining));
    }

    function tags(info, activation) {
        if (!info.tags.length && !info.triggers.length) return null;
        const part = section(TEXT.tags, TEXT.tagsHint);
        const list = make("ul", "lora-ext-tags");
        const often = new Set(info.triggers);
        const known = new Set(info.tags.map(([tag]) => tag));
        const rows = [...info.triggers.filter((word) => !known.has(word)).map((word) => [word, ""]), ...info.tags];
        const words = () => activation.value.split(",").map((word) => word.trim()).filter(Boolean);
        const mark = () => [...list.children].forEach((item) => {
            item.firstChild.setAttribute("aria-pressed", String(words().includes(item.firstChild.dataset.word)));
        });
        for (const [word, count] of rows) {
            const chip = make("button", often.has(word) ? "lora-ext-often" : "");
            chip.type = "button";
            chip.dataset.word = word;
            if (often.has(word)) chip.title = TEXT.suggested;
            chip.addEventListener("click", () => {
                const had = words();
                activation.value = (had.includes(word) ? had.filter((w) => w !== word) : [...had, word]).join(", ");
                mark();
            });
            const text = make("bdi", "", word);
            put(list, put(make("li"), put(chip, text, count === "" ? null : make("small", "", String(count)))));
        }
        activation.addEventListener("input", mark);
        mark();
        const example = make("p", "lora-ext-quiet");
        const draw = button(TEXT.random, "secondary", () => {
            const most = Math.max(...info.tags.map(([, count]) => count), 1);
            const chosen = info.tags.filter(([, count]) => count > Math.random() * most).map(([tag]) => tag);
            example.textContent = chosen.map((tag) => tag.replace(/[()[\]{}]/g, "\\$&")).join(", ");
        });
        return put(part, list, put(make("div", "lora-ext-buttons"), draw), example);
    }

    // ---- the chart --------------------------------------------------------------------------------------------

    function chart(info) {
        const part = section(TEXT.chart, TEXT.chartHint);
        const place = make("div", "lora-ext-norms");
        const measure = button(TEXT.measure, "secondary", async () => {
            measure.disabled = true;
            measure.textContent = TEXT.measuring;
            try {
                const {blocks} = await ask("norms", {name: info.name});
                place.replaceChildren(bars(blocks));
                measure.remove();
            } catch (error) {
                place.replaceChildren(make("p", "lora-ext-window-bad", error.message));
                measure.disabled = false;
                measure.textContent = TEXT.measure;
            }
        });
        return put(part, place, measure);
    }

    function svg(tag, attributes, text) {
        const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
        Object.entries(attributes).forEach(([name, value]) => element.setAttribute(name, String(value)));
        if (text !== undefined) element.textContent = text;
        return element;
    }

    function bars(blocks) {
        const row = 20;
        const left = 52;
        const width = 520;
        const most = Math.max(...blocks.map(([, norm]) => norm), 1e-12);
        const height = blocks.length * row + 4;
        const picture = svg("svg", {viewBox: `0 0 ${width} ${height}`, width: "100%", role: "img", "aria-label": TEXT.chart});
        blocks.forEach(([block, norm, layers], index) => {
            const y = index * row + 2;
            const length = Math.max(1, (width - left - 64) * norm / most);
            const group = svg("g", {});
            put(group, svg("title", {}, `${block}: ${norm.toPrecision(4)} (${layers})`),
                svg("text", {x: left - 8, y: y + 13, "text-anchor": "end"}, block),
                svg("rect", {x: left, y: y + 2, width: length, height: row - 6, rx: 2}),
                svg("text", {x: left + length + 6, y: y + 13, class: "lora-ext-number"}, norm.toPrecision(3)));
            picture.appendChild(group);
        });
        return picture;
    }
})();
