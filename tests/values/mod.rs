//! Values to the letter: what a service receives from files, documents and variables, and which values may sign.

mod corpus;
mod dotenv;
mod readers;
