// Short builds: no minification, no cache, and the AWS packages that the client of Infisical uses are not bundled.
export default {
  experimental: { turbopackFileSystemCacheForBuild: false, turbopackMinify: false, turbopackSourceMaps: false },
  serverExternalPackages: ["@infisical/sdk"],
};
