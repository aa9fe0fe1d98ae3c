"use strict";

page.render(JSON.parse(document.getElementById("content").textContent));
