"use strict";
// Lists the routes of the document, each with a form that sends it. Nothing comes from elsewhere, nothing is kept.

function element(name, properties, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

function example(schema, schemas, depth = 0) {
  if (schema === undefined || depth > 4) return null;
  if (schema.$ref) return example(schemas[schema.$ref.split("/").pop()], schemas, depth);
  if (schema.type === "array") return [example(schema.items, schemas, depth + 1)];
  if (schema.type === "object" && schema.properties) {
    const needed = (schema.required || []).map((name) => [name, example(schema.properties[name], schemas, depth + 1)]);
    return Object.fromEntries(needed);
  }
  if (schema.enum) return schema.enum[0];
  return { string: "name", integer: 1, number: 1, boolean: false, object: {} }[schema.type] ?? null;
}

async function send(path, method, operation, form, shown) {
  let address = path;
  const asked = new URLSearchParams();
  const headers = { Authorization: `Bearer ${document.getElementById("token").value.trim()}` };
  for (const parameter of operation.parameters || []) {
    const value = form.elements[parameter.name].value.trim();
    if (parameter.in === "path") address = address.replace(`{${parameter.name}}`, encodeURIComponent(value));
    else if (value === "") continue;
    else if (parameter.in === "header") headers[parameter.name] = value;
    else if (parameter.schema.type === "array") value.split(",").forEach((each) => asked.append(parameter.name, each.trim()));
    else asked.set(parameter.name, value);
  }
  const options = { method, headers };
  const body = form.elements.body && form.elements.body.value.trim();
  if (body) {
    options.body = body;
    headers["Content-Type"] = "application/json";
  }
  const query = asked.toString();
  const request = `${method} ${address}${query ? `?${query}` : ""}`;
  shown.textContent = request;
  try {
    const answer = await fetch(address + (query ? `?${query}` : ""), options);
    const text = await answer.text();
    let told = text;
    try {
      told = JSON.stringify(JSON.parse(text), null, 2);
    } catch {
      // It is no JSON: shown as it is.
    }
    const kept = ["writ-position", "etag", "location", "link", "retry-after"];
    const head = kept.filter((name) => answer.headers.has(name)).map((name) => `${name}: ${answer.headers.get(name)}`);
    shown.textContent = [request, `${answer.status} ${answer.statusText}`, ...head, "", told].join("\n");
  } catch (error) {
    shown.textContent = `${request}\n${error}`;
  }
}

function shownRoute(path, method, operation, schemas) {
  const form = element("form", {});
  for (const parameter of operation.parameters || []) {
    const input = element("input", { name: parameter.name, required: Boolean(parameter.required) });
    if (parameter.schema.default !== undefined) input.placeholder = String(parameter.schema.default);
    const label = element("label", { className: parameter.required ? "needed" : "" });
    label.append(element("span", { textContent: parameter.name }), input);
    form.append(label);
  }
  if (operation.requestBody) {
    const schema = operation.requestBody.content["application/json"].schema;
    const value = JSON.stringify(example(schema, schemas), null, 2);
    form.append(element("textarea", { name: "body", rows: Math.min(12, value.split("\n").length + 1), value }));
  }
  const shown = element("pre", {});
  form.append(element("div", {}, element("button", { textContent: `Send ${method}` })), shown);
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    send(path, method, operation, form, shown);
  });
  const title = element("code", {}, element("b", { textContent: method }), path);
  return element("details", {}, element("summary", {}, title, ` ${operation.summary}`), form);
}

async function main() {
  const api = await (await fetch("/openapi.json")).json();
  document.getElementById("about").textContent = api.info.description;
  const groups = new Map();
  for (const [path, methods] of Object.entries(api.paths)) {
    for (const [method, operation] of Object.entries(methods)) {
      const tag = operation.tags[0];
      if (!groups.has(tag)) groups.set(tag, []);
      groups.get(tag).push(shownRoute(path, method.toUpperCase(), operation, api.components.schemas));
    }
  }
  const sections = [...groups].map(([tag, routes]) => element("section", {}, element("h2", { textContent: tag }), ...routes));
  document.getElementById("routes").replaceChildren(...sections);
}

main();
