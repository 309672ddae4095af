// Writes the JavaScript blocks of docs/guides/nextjs.md as files: node guide.mjs GUIDE.md
//
// The first line of a block names its file, and in parentheses its variant. An application of the guide has the blocks
// without a variant and those of its own variants. All applications become parts of the Next.js application beside this
// script, because a build takes several seconds. The variable GUIDE selects one of them when the server starts.
import { existsSync, mkdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";

// The variants of each application. If several have a file, the last one is used.
const apps = {
  "next-auth-4": ["next-auth 4", "Effect 3"],
  "next-auth-4-eager": ["next-auth 4, eager"],
  "next-auth-4-once": ["next-auth 4, eager", "without Effect", "once"],
  "next-auth-5": ["next-auth 5", "Effect 4"],
  "next-auth-5-await": ["next-auth 5", "environment", "await"],
  "next-auth-5-eager": ["next-auth 5, eager"],
  "next-auth-5-once": ["next-auth 5, eager", "without Effect", "once"],
  "next-auth-5-subdomains": ["next-auth 5", "environment", "subdomains"],
  "next-auth-5-promise": ["next-auth 5", "environment", "promise"],
};

// Packages that are installed under another name, because two versions of them are used.
const aliases = {
  "next-auth 4": ["next-auth", "next-auth-4"],
  "next-auth 4, eager": ["next-auth", "next-auth-4"],
  "Effect 4": ["effect", "effect-4"],
};

// The files that Next.js loads by their names.
const entries = {
  route: "app/api/auth/[...nextauth]/route.js",
  page: "app/page.js",
  api: "app/private/api/route.js",
  proxy: "proxy.js",
  instrumentation: "instrumentation.js",
};

const target = join(import.meta.dirname, "guides");
const blocks = [...readFileSync(process.argv[2], "utf8").matchAll(/^```js\n(.*\n)([^]*?)^```$/gm)].map(
  ([, title, rest]) => {
    const named = /^\/\/ (\S+)(?: \((.+)\))?$/.exec(title.trim());
    if (!named) throw new Error(`this block does not name its file: ${title}`);
    return { file: named[1], variant: named[2], text: title + rest };
  },
);

rmSync(target, { recursive: true, force: true });
for (const [app, variants] of Object.entries(apps)) {
  const directory = join(target, app);
  for (const variant of [undefined, ...variants]) {
    const found = blocks.filter((block) => block.variant === variant);
    if (found.length === 0) throw new Error(`no block has the variant ${variant}`);
    for (const { file, text } of found) {
      mkdirSync(join(directory, dirname(file)), { recursive: true });
      writeFileSync(join(directory, file), text);
    }
    if (aliases[variant]) {
      const [name, installed] = aliases[variant];
      mkdirSync(join(directory, "node_modules"), { recursive: true });
      symlinkSync(`../../../node_modules/${installed}`, join(directory, "node_modules", name));
    }
  }
}
const used = Object.values(apps).flat();
for (const { file, variant } of blocks) {
  if (variant && !used.includes(variant)) throw new Error(`no application has ${file} (${variant})`);
}

// One module for each entry, which loads it from the selected application.
for (const [entry, file] of Object.entries(entries)) {
  const imports = Object.keys(apps)
    .filter((app) => existsSync(join(target, app, file)))
    .map((app) => `  ${JSON.stringify(app)}: () => import(${JSON.stringify(`./${app}/${file}`)}),\n`);
  const text = `const apps = {\n${imports.join("")}};\n\nexport const load = apps[process.env.GUIDE];\n`;
  writeFileSync(join(target, `${entry}.mjs`), text);
}
