// Charts as SVG: a value by step, read with the pointer or the arrow keys.
// window.loraExtChart(place, {title, lines: [{kind, name, points}], write, height, key})
(() => {
    "use strict";
    if (window.loraExtChart) return;

    const MARGIN = {left: 52, right: 16, top: 10, bottom: 24};
    const SVG = "http://www.w3.org/2000/svg";

    function element(tag, facts, text) {
        const made = document.createElementNS(SVG, tag);
        for (const [name, value] of Object.entries(facts ?? {})) made.setAttribute(name, String(value));
        if (text !== undefined) made.textContent = text;
        return made;
    }

    const short = (value) => String(Number(value.toPrecision(3)));

    // Round numbers between two ends, about `count` of them.
    function ticks(low, high, count) {
        const rough = (high - low) / count || 1;
        const power = 10 ** Math.floor(Math.log10(rough));
        const size = power * [1, 2, 5, 10].find((m) => m * power >= rough * 0.999);
        const out = [];
        for (let n = Math.ceil(low / size - 1e-9); n * size <= high + size * 1e-9; n += 1) out.push(n * size);
        return out;
    }

    // Fewer points than pixels, the first and the last among them.
    function thin(points, most) {
        const stride = Math.ceil(points.length / Math.max(50, most));
        return stride === 1 ? points : points.filter((_, i) => i % stride === 0 || i === points.length - 1);
    }

    // A single spike must not press the curve flat: the highest fiftieth of the raw points may be cut off.
    function span(lines) {
        const [raw, ...others] = lines.map((line) => line.points.map(([, value]) => value));
        const sorted = [...raw].sort((a, b) => a - b);
        const rest = others.flatMap((values) => [values[0], values[values.length - 1]]).filter(Number.isFinite);
        const top = Math.max(sorted[Math.floor(0.98 * (sorted.length - 1))], ...rest) * 1.05;
        const low = Math.min(sorted[0], ...rest) * 0.95;
        return top > low ? [low, top] : [low, low + (Math.abs(low) || 1)];
    }

    function frame(lines, width, height) {
        const steps = lines.flatMap((line) => [line.points[0][0], line.points[line.points.length - 1][0]]);
        const last = Math.max(...steps);
        const begin = Math.min(...steps);
        const first = begin < last / 10 ? 0 : begin;
        const [low, top] = span(lines);
        const [right, bottom] = [width - MARGIN.right, height - MARGIN.bottom];
        return {
            first, last, low, top, right, bottom,
            x: (step) => MARGIN.left + ((step - first) / Math.max(1, last - first)) * (right - MARGIN.left),
            y: (value) => bottom - ((Math.min(value, top) - low) / (top - low)) * (bottom - MARGIN.top),
        };
    }

    function grid(f, width, height, write) {
        const group = element("g", {class: "lora-ext-grid"});
        for (const value of ticks(f.low, f.top, 4)) {
            const y = f.y(value).toFixed(1);
            group.append(
                element("line", {x1: MARGIN.left, x2: f.right, y1: y, y2: y}),
                element("text", {x: MARGIN.left - 6, y: Number(y) + 4, "text-anchor": "end"}, write(value)),
            );
        }
        for (const step of ticks(f.first, f.last, Math.max(3, Math.floor(width / 90)))) {
            group.append(element("text", {x: f.x(step).toFixed(1), y: height - 6, "text-anchor": "middle"}, short(step)));
        }
        return group;
    }

    function curve(line, f, width) {
        const some = thin(line.points, width);
        const d = some.map(([s, v], i) => `${i ? "L" : "M"}${f.x(s).toFixed(1)} ${f.y(v).toFixed(1)}`).join("");
        return element("path", {class: `lora-ext-${line.kind}`, d});
    }

    const near = (points, step) => points.reduce((a, b) => (Math.abs(b[0] - step) < Math.abs(a[0] - step) ? b : a));

    // The step under the pointer, or the one that the arrow keys chose; its values are written into `told`.
    function reader(svg, told, lines, f, write) {
        const {t} = window.loraExt;
        const mark = element("line", {class: "lora-ext-mark", y1: MARGIN.top, y2: f.bottom, visibility: "hidden"});
        const all = lines[0].points;
        let at = all.length - 1;

        function show(point) {
            const x = f.x(point[0]).toFixed(1);
            mark.setAttribute("x1", x);
            mark.setAttribute("x2", x);
            mark.setAttribute("visibility", "visible");
            const values = lines.map((line) => t("{0}: {1}", t(line.name), write(near(line.points, point[0])[1])));
            told.textContent = [t("Step {0}", point[0]), ...values].join(" · ");
        }

        function hide() {
            mark.setAttribute("visibility", "hidden");
            told.textContent = "";
        }

        svg.append(mark);
        svg.addEventListener("pointermove", (event) => {
            const box = svg.getBoundingClientRect();
            const step = f.first + ((event.clientX - box.left - MARGIN.left) / (f.right - MARGIN.left)) * (f.last - f.first);
            const point = near(all, step);
            at = all.indexOf(point);
            show(point);
        });
        svg.addEventListener("pointerleave", hide);
        svg.addEventListener("blur", hide);
        svg.addEventListener("keydown", (event) => {
            const far = Math.max(1, Math.round(all.length / 50));
            const to = {ArrowLeft: at - far, ArrowRight: at + far, Home: 0, End: all.length - 1}[event.key];
            if (to === undefined) return;
            event.preventDefault();
            at = Math.max(0, Math.min(all.length - 1, to));
            show(all[at]);
        });
    }

    // Draws into `place` unless what is there is drawn from the same already. False when there is too little to draw.
    window.loraExtChart = (place, {title, lines, write = short, height = 200, key = ""}) => {
        const width = Math.floor(place.clientWidth);
        const drawn = lines.filter((line) => line.points.length > (line.kind === "held" ? 0 : 1));
        if (!drawn.length || width < 100) return false;
        const sign = [key, width, ...drawn.map((line) => line.points.length)].join("/");
        if (place.dataset.sign === sign && place.querySelector("svg")) return true;
        const focused = place.contains(document.activeElement);
        const f = frame(drawn, width, height);
        const svg = element("svg", {role: "img", tabindex: 0, width, height, "aria-label": title(f.first, f.last)});
        svg.append(grid(f, width, height, write), ...drawn.map((line) => curve(line, f, width)));
        const told = document.createElement("p");
        told.className = "lora-ext-read";
        told.setAttribute("aria-live", "polite");
        reader(svg, told, drawn, f, write);
        place.replaceChildren(svg, told);
        place.dataset.sign = sign;
        if (focused) svg.focus({preventScroll: true});
        return true;
    };
})();
