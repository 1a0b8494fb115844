//! Text → AST, line by line. What needs knowledge of other lines is left to `validate`.

pub(crate) mod command;
mod file;
pub(crate) mod option;

pub(crate) use file::{Event, Reading, file, stream};
