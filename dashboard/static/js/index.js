import { tellTimes } from "./live.js";

tellTimes();
