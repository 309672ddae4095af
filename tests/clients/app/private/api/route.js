import { load } from "../../../guides/api.mjs";

export const GET = async (...call) => (await load()).GET(...call);
