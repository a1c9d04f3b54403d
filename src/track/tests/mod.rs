//! The tracker against a model of AWS that lags, fails, and counts calls.

mod denials;
mod promises;
mod rules;
mod world;
