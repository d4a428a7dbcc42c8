/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Output metrics:FILE: numbers of all sources in the OpenMetrics text format, for collectors that read files (the
 * textfile collector of Prometheus' node exporter). The file is always a whole one: each is written beside it, and
 * takes its place. Of events' names METRICS_NAMES a source are told apart at most: whoever stores these numbers
 * stores a series for each, and guests choose the names.
 */
#ifndef READER_METRICS_H
#define READER_METRICS_H

#include "sink.h"
#include "source.h"

#define METRICS_NAMES 256u

extern const struct sink_ops sink_metrics;

/*
 * Sources are open: what there is to count is known. @interval between two files, ns; 0: a default. 0 or -ENOMEM.
 */
int metrics_start(struct sinks *s, const struct source *source, unsigned int nr, __u64 interval);
/* Write those that are due, or, at the @end, all. */
void metrics_refresh(struct sinks *s, const struct source *source, unsigned int nr, __u64 now, bool end);
/* The directory that such an output writes in; NULL: it is another one. */
const char *metrics_directory(const struct sink *s);

#endif
