//! What operators meet: the files in `config/`, the command line, and what it says about mistakes.

mod check;
mod examples;
mod keys;
mod program;
mod s3;
mod serve;
