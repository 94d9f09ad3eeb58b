// What a page does beyond what its links and forms do without this script.
"use strict";
