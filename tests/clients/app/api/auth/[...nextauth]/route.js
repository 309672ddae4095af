// The route of the guide's application that the variable GUIDE names.
import { load } from "../../../../guides/route.mjs";

export const GET = async (...call) => (await load()).GET(...call);
export const POST = async (...call) => (await load()).POST(...call);
