// Reads [package, schema, object], one a line, and prints for each what the published schema says against the object.
import { readdirSync } from "node:fs";
import { createInterface } from "node:readline";
import { pathToFileURL } from "node:url";

for await (const line of createInterface({ input: process.stdin })) {
  const [name, schema, object] = JSON.parse(line);
  const folder = `${process.argv[2]}/node_modules/@kubernetes-models/${name}/_schemas`;
  const [file] = readdirSync(folder).filter((entry) => entry.endsWith(`${schema}.js`));
  const { validate } = await import(pathToFileURL(`${folder}/${file}`));
  console.log(JSON.stringify(validate(object) ? [] : validate.errors));
}
