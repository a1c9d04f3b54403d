//! Identities, pooled clients, batched reads, classes of errors, rate limits. The only place that names the AWS SDK.
