//! What a status and its condition say.

mod report;
