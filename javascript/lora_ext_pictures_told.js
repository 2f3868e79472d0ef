// What step 1 says about the folder and its pictures.
(() => {
    "use strict";
    const pics = (window.loraExtPictures ||= {});
    if (pics.drawReport) return;
    const {state} = pics;
    const t = (...words) => window.loraExt.t(...words);
    const make = (...words) => window.loraExt.make(...words);
    const said = (text) => window.loraExt.said(text);
    const part = (name) => pics.part(name);

    function report(text) {
        const place = part("report");
        if (place && place.textContent !== text) place.textContent = text;
    }

    function say(problems) {
        const place = part("messages");
        const lines = problems.map((p) => make("p", "", [p.label && t(p.label), said(p.text)].filter(Boolean).join(": ")));
        place?.replaceChildren(...lines);
    }

    function fieldError(text) {
        const box = window.loraExt.page().querySelector("#lora_ext_field_images");
        if (!box) return;
        let message = box.querySelector(".lora-ext-error");
        if (!text) return void message?.remove();
        if (!message) {
            message = make("div", "lora-ext-error");
            message.id = `${box.id}_error`;
            message.setAttribute("role", "alert");
            box.append(message);
            box.addEventListener("input", () => message.remove(), {once: true});
        }
        message.textContent = text;
    }

    const KINDS = {
        unreadable: "{0} unreadable", no_caption: "{0} without caption", small: "{0} smaller than trained",
        cut: "{0} much cut off", alike: "{0} looking alike", rotated: "{0} turned by the camera",
        encoding: "{0} captions not in UTF-8", shared: "{0} sharing a caption",
    };

    const SENTENCES = {
        unreadable: "It cannot be used: {0}.",
        encoding: "Its caption file is not in UTF-8 and was read as {0}. If its letters look wrong, write them anew.",
        no_caption: "It has no caption.",
        small: "It is {0} × {1} px and is scaled up to {2} × {3}: it will look soft.",
        cut: "It is so long that {0} of it is cut off.",
        alike: "It looks like {0}.",
        shared: "It has the same caption file as {0}; they differ only in what stands behind the point.",
        rotated: "The camera noted that it is to be turned; it is trained as you see it here.",
    };

    const MARKS = {
        unreadable: "unreadable", no_caption: "no caption", small: "too small", cut: "cut off", alike: "alike", rotated: "turned",
        encoding: "not UTF-8", shared: "same caption",
    };

    const mark = (problem) => t(MARKS[problem.kind]);
    const sentence = (problem) => t(SENTENCES[problem.kind], ...problem.values.map(said));

    function drawReport() {
        const counts = {};
        for (const entry of state.entries.values()) {
            for (const problem of entry.problems) counts[problem.kind] = (counts[problem.kind] || 0) + 1;
        }
        const parts = [state.entries.size === 1 ? t("1 picture") : t("{0} pictures", state.entries.size)];
        for (const [kind, text] of Object.entries(KINDS)) if (counts[kind]) parts.push(t(text, counts[kind]));
        if (!state.facts.complete) parts.push(t("still reading…"));
        else if (state.facts.looked < pics.usable()) parts.push(t("{0} looked at", state.facts.looked));
        report(parts.join(", "));
        const notices = state.facts.notices;
        part("notices").replaceChildren(...notices.map((text) => make("li", "", said(text))));
        part("notes").hidden = !notices.length;
    }

    Object.assign(pics, {report, say, fieldError, drawReport, mark, sentence, kinds: Object.keys(KINDS)});
})();
