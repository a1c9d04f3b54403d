//! The form of cron expressions, as regular expressions that the API server checks. They let pass all that the parser reads:
//! an upgrade must not refuse what was accepted before.

/// A field of a cron expression.
pub(super) struct Field {
    /// A value; numbers may have leading zeros.
    value: &'static str,
    /// A step, which is never 0.
    step: &'static str,
    /// What else an item of a list may be, after an alternative's `|`.
    special: &'static str,
    /// What to say to other fields.
    pub(super) message: &'static str,
}

/// The fields in their order.
pub(super) const FIELDS: [Field; 5] = [
    Field {
        value: "0*[1-5]?[0-9]",
        step: "0*([1-9]|[1-5][0-9])",
        special: "",
        message: "the minute of cron (field 1) must be from 0 to 59: write values, ranges such as 0-30, steps such as */15, or \
                  a list of these",
    },
    Field {
        value: "0*(1?[0-9]|2[0-3])",
        step: "0*(1?[1-9]|10|2[0-3])",
        special: "",
        message: "the hour of cron (field 2) must be from 0 to 23: write values, ranges such as 2-4, steps such as */2, or a \
                  list of these",
    },
    Field {
        value: "0*([1-9]|[12][0-9]|3[01])",
        step: "0*([1-9]|[12][0-9]|3[01])",
        special: "|L|0*([1-9]|[12][0-9]|3[01])W",
        message: "the day of month of cron (field 3) must be from 1 to 31: write values, ranges such as 1-7, steps such as \
                  */2, L for the last day, 15W for the weekday nearest to day 15, or a list of these",
    },
    Field {
        value: "(0*([1-9]|1[0-2])|(?i:JAN|FEB|MAR|APR|MAY|JUN|JUL|AUG|SEP|OCT|NOV|DEC))",
        step: "0*([1-9]|1[0-2])",
        special: "",
        message: "the month of cron (field 4) must be from 1 to 12 or JAN to DEC: write values, ranges such as 1-6, steps such \
                  as */3, or a list of these",
    },
    Field {
        value: "(0*[0-7]|(?i:SUN|MON|TUE|WED|THU|FRI|SAT))",
        step: "0*[1-7]",
        special: "|(0*[0-7]|(?i:SUN|MON|TUE|WED|THU|FRI|SAT))(L|#0*[1-5])",
        message: "the day of week of cron (field 5) must be from 0 to 7 or SUN to SAT: write values, ranges such as MON-FRI, 5L \
                  for the last Friday, 5#2 for the second, or a list of these",
    },
];

/// Five fields, whatever is in them.
pub(super) const FIVE_FIELDS: &str = "^[[:space:]]*([^[:space:]]+[[:space:]]+){4}[^[:space:]]+[[:space:]]*$";

/// An expression whose field at `place`, counted from 0, is a `field`.
pub(super) fn pattern(place: usize, field: &Field) -> String {
    let Field {
        value, step, special, ..
    } = field;
    let before = match place {
        0 => String::new(),
        place => format!("([^[:space:]]+[[:space:]]+){{{place}}}"),
    };
    let item = format!("((([*]|{value}(-{value})?)(/{step})?){special})");
    format!("^[[:space:]]*{before}{item}(,{item})*([[:space:]]|$)")
}

/// A range of names that does not ascend.
pub(super) fn descending_names() -> String {
    let days = ["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"];
    let months = [
        "JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC",
    ];
    let mut ranges = Vec::new();
    for names in [&days[..], &months[..]] {
        for (place, end) in names.iter().enumerate() {
            let later: Vec<&str> = names.iter().skip(place + 1).copied().collect();
            if !later.is_empty() {
                ranges.push(format!("({})-{end}", later.join("|")));
            }
        }
    }
    format!("(?i:{})", ranges.join("|"))
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use proptest::prelude::*;
    use regex::Regex;

    use super::*;

    static FORMS: LazyLock<Vec<Regex>> = LazyLock::new(|| {
        let fields = FIELDS.iter().enumerate();
        let fields = fields.map(|(place, field)| pattern(place, field));
        let all = fields.chain([FIVE_FIELDS.to_owned()]);
        all.map(|form| Regex::new(&form).unwrap()).collect()
    });
    static NUMBERS: LazyLock<Regex> = LazyLock::new(|| Regex::new("([0-9]+)-([0-9]+)").unwrap());
    static DESCENDING: LazyLock<Regex> = LazyLock::new(|| Regex::new(&descending_names()).unwrap());

    /// Whether the API server's rules accept the form of `cron`.
    fn passes(cron: &str) -> bool {
        let ascends = |found: regex::Captures<'_>| {
            let number = |at: usize| found[at].parse::<u64>();
            matches!((number(1), number(2)), (Ok(low), Ok(high)) if low <= high)
        };
        FORMS.iter().all(|form| form.is_match(cron))
            && NUMBERS.captures_iter(cron).all(ascends)
            && !DESCENDING.is_match(cron)
    }

    fn is_read(cron: &str) -> bool {
        cron.split_ascii_whitespace().count() == 5 && cronexpr::parse_crontab(&format!("{cron} UTC")).is_ok()
    }

    /// Each value, range, step and special item of each field alone.
    #[test]
    fn the_rules_and_the_parser_agree_on_single_fields() {
        let mut items: Vec<String> = [
            "*",
            "L",
            "l",
            "W",
            "H",
            "?",
            "*/",
            "/2",
            "-",
            "1-",
            "-1",
            "",
            "**",
            "*-2",
            "LW",
            "L-1",
            "MONL",
            "mon#5",
            "MON#0",
            "5#6",
            "5#05",
            "MON-",
            "MON-FRI/2",
            "FRI-MON",
            "SAT-SUN",
            "SUN-SAT",
            "sun-7",
            "MON-5",
            "5-MON",
            "JAN-DEC",
            "DEC-JAN",
            "jan/2",
            "JANUARY",
            "MONDAY",
            "JANX",
            "15w",
            "1W,L",
            "1,,2",
            ",1",
            "1,",
            "*,5",
            "5,*/3",
            "1-5/2,7",
            "@daily",
            "1.5",
            "+1",
            "1 ",
            "000000000000000000000000005",
            "18446744073709551616",
        ]
        .map(str::to_owned)
        .to_vec();
        for low in 0..64 {
            items.extend([
                format!("{low}"),
                format!("0{low}"),
                format!("*/{low}"),
                format!("{low}/2"),
                format!("{low}W"),
                format!("{low}L"),
                format!("{low}#1"),
                format!("5#{low}"),
                format!("*/0{low}"),
            ]);
            items.extend((0..64).step_by(3).map(|high| format!("{low}-{high}")));
            items.push(format!("{low}-{}/{low}", low + 1));
        }
        let mut differ = Vec::new();
        for item in &items {
            for place in 0..5 {
                let mut fields = ["*"; 5];
                fields[place] = item;
                let cron = fields.join(" ");
                let (read, passes) = (is_read(&cron), passes(&cron));
                assert!(passes || !read, "refused, and was valid before: {cron:?}");
                if passes != read {
                    differ.push(cron);
                }
            }
        }
        // A name with a number cannot be compared: the condition reports it.
        assert_eq!(differ, ["* * * * 5-MON"]);
    }

    fn item() -> impl Strategy<Value = String> {
        let value = || {
            prop_oneof![
                (0_u32..64).prop_map(|number| number.to_string()),
                (0_u32..10).prop_map(|number| format!("00{number}")),
                Just("*".to_owned()),
                prop::sample::select(vec![
                    "JAN", "jun", "Dec", "SUN", "mon", "Sat", "L", "5L", "15W", "2#3", "FRI#1"
                ])
                .prop_map(str::to_owned),
            ]
        };
        (value(), prop::option::of(value()), prop::option::of(value())).prop_map(|(low, high, step)| {
            let high = high.map_or_else(String::new, |high| format!("-{high}"));
            let step = step.map_or_else(String::new, |step| format!("/{step}"));
            format!("{low}{high}{step}")
        })
    }

    fn expressions() -> impl Strategy<Value = String> {
        let field = prop_oneof![
            3 => Just("*".to_owned()),
            2 => item(),
            1 => prop::collection::vec(item(), 1..4).prop_map(|items| items.join(",")),
        ];
        let space = prop_oneof![4 => Just(" "), 1 => Just("  "), 1 => Just("\t"), 1 => Just("\n")];
        (
            prop::collection::vec((field, space), 5),
            prop::option::of(Just(" ")),
        )
            .prop_map(|(parts, before)| {
                let parts = parts.into_iter().map(|(field, space)| field + space);
                before.unwrap_or_default().to_owned() + &parts.collect::<String>()
            })
    }

    proptest! {
        #[test]
        fn what_the_parser_reads_passes(cron in expressions()) {
            prop_assert!(passes(&cron) || !is_read(&cron), "{cron:?}");
        }

        #[test]
        fn whatever_the_parser_reads_passes(cron in "[0-9*/,A-Za-z#\\- ]{5,20}") {
            prop_assert!(passes(&cron) || !is_read(&cron), "{cron:?}");
        }
    }

    #[test]
    fn every_known_time_zone_has_the_form_of_one() {
        let form = Regex::new(super::super::refused::TIME_ZONE).unwrap();
        let names: Vec<String> = jiff::tz::db().available().map(|name| name.to_string()).collect();
        assert!(names.len() > 300, "{}", names.len());
        let others: Vec<&String> = names.iter().filter(|name| !form.is_match(name)).collect();
        assert_eq!(others, Vec::<&String>::new());
    }
}
