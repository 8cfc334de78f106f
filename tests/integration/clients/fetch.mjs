// fetch.mjs URL: the built-in fetch, with nothing told about certificates.
import {createHash} from "node:crypto";
const url = process.argv[2];
const headers = {authorization: `Bearer ${process.env.TOKEN}`};
const echoed = await fetch(`${url}/echo`, {headers});
console.log(echoed.status, echoed.headers.get("x-authorization"));
const body = JSON.stringify({list: Array.from({length: 50000}, (_, i) => `entry ${i}`)});
const sum = await fetch(`${url}/sum`, {method: "POST", headers, body});
const wanted = `${body.length} ${createHash("sha256").update(body).digest("hex")}\n`;
console.log(sum.status, await sum.text() === wanted ? "same" : "other");
const events = await fetch(`${url}/events/3`, {headers});
let text = "", seen = 0;
for await (const chunk of events.body) {
    text += Buffer.from(chunk).toString();
    while (text.split("\n\n").length - 1 > seen)
        await (await fetch(`${url}/next/${++seen}`)).text();
}
console.log(seen, text.includes(process.env.TOKEN) ? "placeholder" : "other");
