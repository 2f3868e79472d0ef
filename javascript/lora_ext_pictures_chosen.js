// The chosen picture of step 1, large, with its caption to be edited.
(() => {
    "use strict";
    const pics = (window.loraExtPictures ||= {});
    if (pics.showDetail) return;
    const {state} = pics;
    const t = (...words) => window.loraExt.t(...words);
    const make = (...words) => window.loraExt.make(...words);
    const part = (name) => pics.part(name);

    const IDLE_EDIT = 1500; // ms after the last key until a caption counts as edited

    const detail = {id: null, whole: false, view: 0, address: "", sign: ""};
    let typing = 0;

    function showDetail() {
        const entry = state.entries.get(state.cursor);
        const pane = part("detail");
        if (!pane) return;
        pane.hidden = !entry;
        if (!entry) {
            detail.id = null;
            return;
        }
        if (detail.id !== entry.id) Object.assign(detail, {id: entry.id, view: 0, sign: ""});
        part("name").textContent = entry.name;
        part("facts").textContent = facts(entry).join(" · ");
        part("problems").replaceChildren(...entry.problems.map((p) => make("li", "", pics.sentence(p))));
        const box = part("caption");
        box.disabled = !entry.size[0];
        // What is being typed stays; what was only shown becomes what is known now.
        if (box.dataset.id !== String(entry.id) || box.value === box.dataset.known) box.value = pics.text(entry);
        Object.assign(box.dataset, {id: entry.id, known: pics.text(entry)});
        drawChips(entry);
        const told = entry.trained !== pics.text(entry) && entry.size[0];
        part("trained").textContent = told ? t("Trained with: {0}", entry.trained || t("no words at all")) : "";
        part("as-trained").setAttribute("aria-pressed", String(!detail.whole));
        part("as-whole").setAttribute("aria-pressed", String(detail.whole));
        const other = part("other-view");
        other.hidden = detail.whole || entry.views < 2;
        other.textContent = t("Version {0} of {1}", (detail.view % Math.max(1, entry.views)) + 1, entry.views);
        showPicture(entry);
    }

    function facts(entry) {
        if (!entry.size[0]) return [];
        const kept = (entry.bucket[0] * entry.bucket[1]) / (entry.resized[0] * entry.resized[1]);
        const found = [t("{0} × {1} px", ...entry.size), t("trained at {0} × {1}", ...entry.bucket)];
        if (kept < 0.995) found.push(t("{0} % cut off", Math.round(100 * (1 - kept))));
        if (entry.repeats !== 1) found.push(t("seen {0} times per epoch", entry.repeats));
        if (entry.masked) found.push(t("has a mask"));
        if (entry.source === "list") found.push(t("caption from {0}", entry.file));
        return found;
    }

    async function showPicture(entry) {
        const place = part("view");
        const path = detail.whole ? `whole/${entry.id}` : `trained/${entry.id}?view=${detail.view}`;
        const sign = `${state.key}/${path}/${entry.bucket}/${entry.crop}/${entry.size}`;
        if (detail.sign === sign) return;
        detail.sign = sign;
        place.style.aspectRatio = entry.size[0] ? (detail.whole ? entry.size : entry.bucket).join(" / ") : "";
        if (!entry.size[0]) return void place.replaceChildren(make("p", "lora-ext-empty", t("This picture cannot be read.")));
        const thumb = pics.thumb(entry.id);
        if (detail.whole && thumb?.address) place.replaceChildren(pics.image(thumb.address));
        let address = "";
        try {
            const got = await window.loraExt.get(`pictures/${state.key}/${path}`);
            if (got.ok) address = URL.createObjectURL(await got.blob());
        } catch { /* told by the next question */ }
        if (detail.sign !== sign) return void (address && URL.revokeObjectURL(address));
        if (detail.address) URL.revokeObjectURL(detail.address);
        detail.address = address;
        if (!address) return void place.replaceChildren(make("p", "lora-ext-empty", t("This picture cannot be read.")));
        const picture = pics.image(address);
        picture.alt = pics.text(entry) || entry.name;
        place.replaceChildren(picture);
        if (detail.whole) place.append(cut(entry));
    }

    // What is cut out, as a frame over the whole picture.
    function cut(entry) {
        const frame = make("div", "lora-ext-pic-cut");
        const share = (value, i) => `${(100 * value) / entry.resized[i]}%`;
        Object.assign(frame.style, {
            left: share(entry.crop[0], 0), top: share(entry.crop[1], 1),
            width: share(entry.bucket[0], 0), height: share(entry.bucket[1], 1),
        });
        return frame;
    }

    function drawChips(entry) {
        const tags = pics.tagsOf(entry);
        const list = part("chips");
        const at = [...list.querySelectorAll("button")].indexOf(document.activeElement);
        list.hidden = tags.length < 2;
        list.replaceChildren(...(tags.length < 2 ? [] : tags.map((tag) => {
            const item = make("li");
            const button = make("button", "", `${tag} ×`);
            button.type = "button";
            button.title = t("Remove {0}", tag);
            button.dataset.tag = tag;
            item.append(button);
            return item;
        })));
        if (at < 0) return;
        const left = list.querySelectorAll("button");
        (left[Math.min(at, left.length - 1)] || part("caption")).focus(); // not lost with the button that had it
    }

    // The caption as typed becomes an edit; nothing happens when it is what is known already.
    function commit() {
        clearTimeout(typing);
        const box = part("caption");
        const id = Number(box?.dataset.id);
        const entry = state.entries.get(id);
        if (!entry || !box || box.value === pics.text(entry) || box.disabled) return;
        edit(id, box.value);
    }

    async function edit(id, caption) {
        const entry = state.entries.get(id);
        state.entries.set(id, {...entry, text: caption, changed: true}); // at once; the answer has the last word
        pics.drawAll([id]);
        try {
            await pics.change("edit", {texts: {[id]: caption}});
        } catch (error) {
            state.entries.set(id, entry);
            pics.fail(error);
        }
    }

    // What is typed now becomes an edit when the keys rest.
    function soon() {
        clearTimeout(typing);
        typing = setTimeout(commit, IDLE_EDIT);
    }

    Object.assign(pics, {showDetail, commit, soon, detail});
})();
