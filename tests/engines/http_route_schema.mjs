// Reads JSON objects, one a line, and prints for each what the published schema of HTTPRoute says against it.
import { createInterface } from "node:readline";
import { pathToFileURL } from "node:url";

const schema = "node_modules/@kubernetes-models/gateway-api/_schemas/IoK8sSigsGatewayApiApisV1HTTPRoute.js";
const { validate } = await import(pathToFileURL(`${process.argv[2]}/${schema}`));
for await (const line of createInterface({ input: process.stdin })) {
  console.log(JSON.stringify(validate(JSON.parse(line)) ? [] : validate.errors));
}
