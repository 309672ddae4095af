//! Values to the letter: what a service receives from files, documents and variables, and which values may sign.

mod field_types;
mod places;
mod rewrites;
mod scalars;
mod typed;
mod volumes;
