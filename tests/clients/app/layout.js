export { default } from "../guides/next-auth-5/app/layout.js";
