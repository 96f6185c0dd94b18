//! Who is who: connections and cgroups to services, by names in a fixed order of trust.
