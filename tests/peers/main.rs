//! How nodes talk to each other, through real sockets.

#![cfg(test)]

mod answers;
mod bodies;
mod certificates;
mod fixture;
mod forms;
mod secret;
mod tap;
