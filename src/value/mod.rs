//! Remote values to the data of a Secret. Pure.
