// On every page: the theme without a reload, times that stay true, dialogs instead of pages.

import { openDialogs } from "./dialogs.js";
import { keepTimes } from "./times.js";
import { switchTheme } from "./theme.js";

switchTheme(document.querySelector("[data-theme-form]"));
openDialogs();
keepTimes();
