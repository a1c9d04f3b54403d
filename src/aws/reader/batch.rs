//! Reading several secrets by one call.

use std::{collections::HashMap, sync::Arc};

use tokio::time::Instant;

use crate::{
    api::{Selector, SourceId, arn::is_arn, remote::AWSCURRENT},
    aws::{
        Aws, Class, Error, RemoteValue, Urgency,
        client::Client,
        error::{Cause, account_of},
        suspects::Run,
    },
};

/// What came of one key.
pub(super) type Answered = Result<Arc<RemoteValue>, Error>;

/// The current versions of secrets, in the order of their keys, by one call unless a batch with some of them has failed twice.
/// There are no more keys than the service takes. What is not answered is to be read alone: an id that the answer leaves out,
/// one of another account (AWS documents no batches over that border), all if one malformed id has spoilt the call, one that
/// spoils each batch.
pub(super) async fn read(
    aws: &Aws,
    id: SourceId,
    keys: &[Arc<str>],
    urgency: Urgency,
) -> Result<Vec<Option<Answered>>, Error> {
    let whole = |cause| Error::Batch {
        count: keys.len(),
        cause,
    };
    let client = aws.client(id).map_err(whole)?;
    let account = client.cache.held().await.map_err(whole)?.account();
    let is_home = |key: &&Arc<str>| account_of(key).is_none_or(|of| account.as_deref() == Some(of));
    let mut run = Run::new(keys.iter().filter(is_home).cloned());
    let mut answers = HashMap::new();
    loop {
        let next = run.next(&client.suspects(), Instant::now());
        let Some(keys_of_part) = next else { break };
        let cause = match part(aws, &client, &keys_of_part, urgency).await {
            Ok(answered) => {
                run.answer(&mut client.suspects(), &keys_of_part);
                answers.extend(answered);
                continue;
            }
            Err(cause) => cause,
        };
        let goes_on = match cause.class {
            Class::Invalid => continue,
            // Too many calls, or an identity that is not accepted, are no fault of a key.
            Class::Unavailable => run.fail(&mut client.suspects(), keys_of_part, Instant::now()),
            _ => {
                run.give_back(keys_of_part);
                false
            }
        };
        if goes_on {
            continue;
        }
        if !run.was_answered() {
            return Err(whole(cause));
        }
        // Each may still be allowed alone.
        if cause.class != Class::AccessDenied {
            let left = run.left(&client.suspects(), Instant::now());
            answers.extend(left.into_iter().map(|key| {
                let error = batch_error(&key, false, cause.clone());
                (key, Err(error))
            }));
        }
        break;
    }
    Ok(keys.iter().map(|key| answers.remove(key)).collect())
}

/// One call: what it answers, by key.
async fn part(
    aws: &Aws,
    client: &Client,
    keys: &[Arc<str>],
    urgency: Urgency,
) -> Result<Vec<(Arc<str>, Answered)>, Cause> {
    let (values, errors) = aws.batch(client, keys, urgency).await?;
    let answer = |key: &Arc<str>| {
        if let Some(value) = values.iter().find(|value| is_meant(key, value)) {
            return Some((key.clone(), Ok(value.clone())));
        }
        let (_, cause) = errors.iter().find(|(id, _)| **id == **key)?;
        Some((key.clone(), Err(batch_error(key, true, cause.clone()))))
    };
    Ok(keys.iter().filter_map(answer).collect())
}

/// Why a batch gives nothing for the key: for it `alone`, or for all.
fn batch_error(key: &Arc<str>, alone: bool, cause: Cause) -> Error {
    Error::Read {
        key: key.clone(),
        selector: Selector::Stage(AWSCURRENT.into()),
        alone,
        cause,
    }
}

/// Whether a key means the secret that was answered: by name, by ARN, or by ARN without its suffix of a hyphen and six
/// characters.
fn is_meant(key: &str, value: &RemoteValue) -> bool {
    let without_suffix = value
        .arn
        .len()
        .checked_sub(7)
        .and_then(|end| value.arn.get(..end));
    key == &*value.name || key == &*value.arn || (is_arn(key) && without_suffix == Some(key))
}
