import { load } from "../guides/page.mjs";

// The page of the guide's application is a part of this page, so a build renders it as well.
const { default: GuidePage } = load ? await load() : { default: () => "no guide" };

export default function Page() {
  return <GuidePage />;
}
