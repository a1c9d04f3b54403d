//! What is read of pod templates.

mod uses;
