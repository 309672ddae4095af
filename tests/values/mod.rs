//! Values to the letter: what a service receives from files, documents and variables, and which values may sign.

mod corpus;
mod documents;
mod dotenv;
mod encrypted;
mod env;
mod exports;
mod field_types;
mod notices;
mod places;
mod readers;
mod rewrites;
mod scalars;
mod strength;
mod typed;
mod volumes;
