//! What is read of pod templates, pods and annotations.

mod pods;
mod records;
mod uses;
