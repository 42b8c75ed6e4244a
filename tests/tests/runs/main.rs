//! The two programs, as users start them. One test program, since each more costs a build its link.

mod bench;
mod cli;
mod composed;
mod endurance;
mod families;
mod gguf;
mod lsp;
mod mechanisms;
mod playground;
mod python;
mod query;
mod real;
mod report;
mod routes;
mod run;
mod sweep;
mod sweep_page;
mod tokenizer;
mod training;
mod variants;
mod watch;
