//! The tracker against a model of AWS that lags, fails, and counts calls.

mod alone;
mod dates;
mod denials;
mod failures;
mod gone;
mod promises;
mod rules;
mod world;
