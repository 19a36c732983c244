"""Published test scores as (MSE, MAE) of scaled values over every variable, of all seven benchmarks.

Per horizon, look-back 96: SiMBA from arXiv 2403.15360, Table 3; iTransformer, PatchTST, RLinear, DLinear and TimesNet
from iTransformer, arXiv 2310.06625, Table 10; TimeMixer from its README; CycleNet from the authors' five-seed logs (its
linear model on ETTh, its MLP elsewhere); TQNet from its result file; DUET from its README at one look-back; Leddam from
its logs. `linear` is this project's own closed form: one least-squares map of windows less their mean, fitted on every
train window.

Means of the four horizons, look-back 96: Titans from arXiv 2501.00663, Table 3, which states no look-back; SiMBA's mean
is taken here from its own table, as the one that Titans prints differs; S-Mamba from TimePro's table; SOFTS, TimeXer,
TimePro, CMamba, OLinear, SimpleTM, WPMixer, TimeKAN and xPatch from their authors' pages; TimeMixer without dropped
windows from CMamba's re-run; TimeMixer++ as OLinear quotes it, code not seen.

Means with a longer or a searched look-back: CycleNet from its logs; PatchTST, iTransformer, DLinear, TimeMixer and
xPatch from xPatch's table of runs that drop nothing; DUET from its README, Table 3; TimeBridge from its own log files.

`tail dropped` marks loaders that leave the last incomplete test batch out: such scores are too good, most of all on
ETTh1 and ETTh2, and not comparable with ours, which count every window.
"""

HORIZONS = (96, 192, 336, 720)

_HORIZONS_96 = {
    "ETTh1": """
        SiMBA (tail probably dropped) .379/.395 .432/.424 .473/.443 .483/.469
        iTransformer                  .386/.405 .441/.436 .487/.458 .503/.491
        PatchTST                      .414/.419 .460/.445 .501/.466 .500/.488
        RLinear                       .386/.395 .437/.424 .479/.446 .481/.470
        DLinear                       .386/.400 .437/.432 .481/.459 .519/.516
        TimesNet                      .384/.402 .436/.429 .491/.469 .521/.500
        TimeMixer (tail dropped)      .375/.400 .429/.421 .484/.458 .498/.482
        CycleNet                      .378/.391 .427/.419 .464/.439 .462/.461
        TQNet                         .371/.393 .428/.426 .476/.446 .487/.470
        DUET                          .377/.393 .429/.425 .471/.446 .496/.480
        Leddam                        .377/.394 .424/.422 .459/.442 .463/.460
        linear                        .383/.392 .434/.421 .475/.441 .462/.456""",
    "ETTh2": """
        SiMBA (tail probably dropped) .290/.339 .373/.390 .376/.406 .407/.431
        iTransformer                  .297/.349 .380/.400 .428/.432 .427/.445
        PatchTST                      .302/.348 .388/.400 .426/.433 .431/.446
        RLinear                       .288/.338 .374/.390 .415/.426 .420/.440
        DLinear                       .333/.387 .477/.476 .594/.541 .831/.657
        TimesNet                      .340/.374 .402/.414 .452/.452 .462/.468
        TimeMixer (tail dropped)      .289/.341 .372/.392 .386/.414 .412/.434
        CycleNet                      .286/.335 .373/.392 .422/.433 .454/.458
        TQNet                         .295/.343 .367/.393 .417/.427 .433/.446
        DUET                          .296/.345 .368/.389 .411/.422 .412/.434
        Leddam                        .292/.343 .367/.389 .412/.424 .419/.438
        linear                        .289/.338 .374/.390 .414/.424 .416/.436""",
    "ETTm1": """
        SiMBA (tail probably dropped) .324/.360 .363/.382 .395/.405 .451/.437
        iTransformer                  .334/.368 .377/.391 .426/.420 .491/.459
        PatchTST                      .329/.367 .367/.385 .399/.410 .454/.439
        RLinear                       .355/.376 .391/.392 .424/.415 .487/.450
        DLinear                       .345/.372 .380/.389 .413/.413 .474/.453
        TimesNet                      .338/.375 .374/.387 .410/.411 .478/.450
        TimeMixer (tail dropped)      .320/.357 .361/.381 .390/.404 .454/.441
        CycleNet                      .319/.360 .361/.382 .390/.404 .448/.441
        TQNet                         .311/.353 .356/.378 .390/.401 .452/.440
        DUET                          .324/.354 .369/.379 .404/.402 .463/.437
        Leddam                        .319/.359 .369/.383 .394/.402 .460/.442
        linear                        .351/.371 .389/.390 .422/.412 .483/.446""",
    "ETTm2": """
        SiMBA (tail probably dropped) .177/.263 .245/.306 .304/.343 .400/.399
        iTransformer                  .180/.264 .250/.309 .311/.348 .412/.407
        PatchTST                      .175/.259 .241/.302 .305/.343 .402/.400
        RLinear                       .182/.265 .246/.304 .307/.342 .407/.398
        DLinear                       .193/.292 .284/.362 .369/.427 .554/.522
        TimesNet                      .187/.267 .249/.309 .321/.351 .408/.403
        TimeMixer (tail dropped)      .175/.258 .237/.299 .298/.340 .391/.396
        CycleNet                      .164/.247 .230/.290 .285/.327 .389/.392
        TQNet                         .173/.256 .238/.298 .301/.340 .397/.396
        DUET                          .174/.255 .243/.302 .304/.341 .399/.397
        Leddam                        .176/.257 .243/.303 .303/.341 .400/.398
        linear                        .182/.265 .246/.304 .307/.342 .407/.398""",
    "ECL": """
        SiMBA (tail probably dropped) .165/.253 .173/.262 .188/.277 .214/.305
        iTransformer                  .148/.240 .162/.253 .178/.269 .225/.317
        PatchTST                      .181/.270 .188/.274 .204/.293 .246/.324
        RLinear                       .201/.281 .201/.283 .215/.298 .257/.331
        DLinear                       .197/.282 .196/.285 .209/.301 .245/.333
        TimesNet                      .168/.272 .184/.289 .198/.300 .220/.320
        TimeMixer (tail dropped)      .153/.247 .166/.256 .185/.277 .225/.310
        CycleNet                      .136/.230 .153/.245 .171/.264 .212/.300
        TQNet                         .134/.229 .154/.247 .169/.264 .201/.294
        DUET                          .145/.233 .163/.248 .175/.262 .204/.291
        Leddam                        .141/.235 .159/.252 .173/.268 .201/.295""",
    "Traffic": """
        SiMBA (tail probably dropped) .468/.268 .413/.317 .529/.284 .564/.297
        iTransformer                  .395/.268 .417/.276 .433/.283 .467/.302
        PatchTST                      .462/.295 .466/.296 .482/.304 .514/.322
        RLinear                       .649/.389 .601/.366 .609/.369 .647/.387
        DLinear                       .650/.396 .598/.370 .605/.373 .645/.394
        TimesNet                      .593/.321 .617/.336 .629/.336 .640/.350
        TimeMixer (tail dropped)      .462/.285 .473/.296 .498/.296 .506/.313
        CycleNet                      .459/.297 .457/.295 .471/.300 .502/.314
        TQNet                         .413/.261 .432/.271 .450/.277 .486/.295
        DUET                          .407/.252 .431/.262 .456/.269 .509/.292
        Leddam                        .426/.276 .458/.289 .486/.297 .498/.313""",
    "Weather": """
        SiMBA (tail probably dropped) .176/.219 .222/.260 .275/.297 .350/.349
        iTransformer                  .174/.214 .221/.254 .278/.296 .358/.347
        PatchTST                      .177/.218 .225/.259 .278/.297 .354/.348
        RLinear                       .192/.232 .240/.271 .292/.307 .364/.353
        DLinear                       .196/.255 .237/.296 .283/.335 .345/.381
        TimesNet                      .172/.220 .219/.261 .280/.306 .365/.359
        TimeMixer (tail dropped)      .163/.209 .208/.250 .251/.287 .339/.341
        CycleNet                      .159/.203 .207/.248 .263/.290 .345/.345
        TQNet                         .157/.200 .206/.245 .262/.287 .344/.342
        DUET                          .163/.202 .218/.252 .274/.294 .349/.343
        Leddam                        .156/.202 .207/.250 .262/.291 .343/.343
        linear                        .196/.235 .241/.271 .293/.307 .366/.354""",
}

_MEANS_96 = """
                                         ETTh1     ETTh2     ETTm1     ETTm2     ECL       Traffic   Weather
    Titans (look-back not stated)        .420/.421 .336/.382 .358/.387 .261/.309 .162/.261 .415/.289 .231/.265
    SiMBA (tail probably dropped)        .442/.433 .362/.392 .383/.396 .282/.328 .185/.274 .494/.292 .256/.281
    iTransformer                         .454/.447 .383/.407 .407/.410 .288/.332 .178/.270 .428/.282 .258/.278
    PatchTST                             .469/.454 .387/.407 .387/.400 .281/.326 .205/.290 .481/.304 .259/.281
    RLinear                              .446/.434 .374/.398 .414/.407 .286/.327 .219/.298 .626/.378 .272/.291
    DLinear                              .456/.452 .559/.515 .403/.407 .350/.401 .212/.300 .625/.383 .265/.317
    TimesNet                             .458/.450 .414/.427 .400/.406 .291/.333 .192/.295 .620/.336 .259/.287
    TimeMixer (tail dropped)             .447/.440 .364/.395 .381/.395 .275/.323 .182/.272 .484/.297 .240/.271
    TimeMixer (CMamba's re-run)          .470/.451 .389/.409 .384/.397 .279/.325 .183/.272 .496/.298 .245/.274
    S-Mamba                              .455/.450 .381/.405 .398/.405 .288/.332 .170/.265 -         .251/.276
    SOFTS                                .449/.442 .373/.400 .393/.403 .287/.330 .174/.264 .409/.267 .255/.278
    TimeXer                              .437/.437 .367/.396 .382/.397 .274/.322 .171/.270 .466/.287 .241/.271
    CycleNet-MLP                         .457/.441 .388/.410 .379/.397 .267/.314 .168/.260 .472/.301 .243/.271
    CycleNet-Linear                      .433/.428 .384/.405 .386/.395 .272/.315 .170/.261 .486/.313 .255/.279
    TQNet                                .441/.434 .378/.402 .377/.393 .277/.323 .164/.259 .445/.276 .242/.269
    DUET                                 .443/.436 .372/.397 .390/.393 .280/.324 .172/.258 .451/.269 .251/.273
    Leddam                               .431/.430 .373/.399 .386/.397 .281/.325 .169/.263 .467/.294 .242/.272
    CMamba                               .433/.425 .368/.391 .376/.379 .273/.316 .169/.258 .444/.265 .237/.259
    OLinear                              -         -         -         -         .159/.248 .451/.247 .237/.260
    TimeMixer++ (quoted, code not seen)  -         -         -         -         .165/.253 .416/.264 .226/.262
    TimePro                              .438/.438 .377/.403 .391/.400 .281/.326 .169/.262 -         .251/.276
    SimpleTM (tail dropped)              .422/.428 .353/.391 .381/.396 .275/.322 .166/.260 .444/.289 .243/.271
    WPMixer (tail dropped)               .422/.423 .355/.387 .376/.388 .271/.317 .177/.267 .489/.297 .243/.269
    TimeKAN (tail dropped)               .417/.427 .383/.404 .376/.395 .277/.322 .197/.286 -         .242/.272
    xPatch (tail dropped)                .428/.419 .319/.361 .377/.384 .267/.313 .179/.264 .499/.279 .232/.261
    linear                               .438/.427 .373/.397 .411/.405 .285/.327 -         -         .274/.292"""

_MEANS_ANY = """
                                         ETTh1     ETTh2     ETTm1     ETTm2     ECL       Traffic   Weather
    linear (336)                         .406/.417 .338/.382 .358/.376 .256/.313 -         -         .248/.281
    linear (512)                         .404/.419 .333/.380 .357/.377 .253/.312 -         -         .243/.280
    CycleNet-Linear (336)                .416/.427 .355/.398 .355/.379 .252/.310 .158/.251 .421/.289 .242/.278
    CycleNet-MLP (336)                   .438/.440 .372/.407 .362/.390 .271/.324 .158/.252 .413/.282 .227/.266
    CycleNet-Linear (720)                .430/.439 .346/.394 .355/.381 .249/.312 .157/.251 .406/.280 .238/.278
    PatchTST (searched)                  .419/.436 .351/.395 .349/.381 .256/.314 .171/.270 .397/.275 .224/.261
    iTransformer (searched)              .439/.448 .370/.403 .361/.390 .269/.327 .163/.258 .397/.281 .232/.270
    DLinear (searched)                   .425/.439 .470/.468 .356/.378 .259/.324 .167/.264 .418/.287 .242/.293
    TimeMixer (searched)                 .427/.441 .349/.397 .356/.380 .257/.318 .185/.284 .409/.279 .226/.264
    xPatch (96 or 512)                   .413/.423 .341/.383 .351/.371 .251/.307 .154/.245 .388/.245 .219/.249
    DUET (searched)                      .398/.419 .334/.383 .338/.369 .248/.307 .157/.248 .393/.256 .218/.252
    TimeBridge (720, own logs)           .398/.425 .342/.383 .345/.377 .247/.306 .150/.244 .345/.241 .220/.249
    Titans (look-back not stated)        .420/.421 .336/.382 .358/.387 .261/.309 .162/.261 .415/.289 .231/.265"""


def published_scores(name: str, look_back: int, horizon: int) -> dict[str, dict[str, float]]:
    """{model: {`mse`, `mae`}} of a benchmark; empty unless look-back is 96 and the horizon is a published one."""
    if look_back != 96 or horizon not in HORIZONS or name not in _HORIZONS_96:
        return {}
    rows = [line.rsplit(maxsplit=len(HORIZONS)) for line in _HORIZONS_96[name].strip().splitlines()]
    return {row[0].strip(): _scores(row[1 + HORIZONS.index(horizon)]) for row in rows}


def published_means(name: str, look_back: int) -> dict[str, dict[str, float]]:
    """{model: {`mse`, `mae`}} over the four horizons of a benchmark: those at look-back 96, or those at any longer one.

    Empty for a name that is no benchmark.
    """
    header, *lines = (_MEANS_96 if look_back == 96 else _MEANS_ANY).strip().splitlines()
    sets = header.split()
    if name not in sets:
        return {}
    rows = [line.rsplit(maxsplit=len(sets)) for line in lines]
    cells = {row[0].strip(): row[1 + sets.index(name)] for row in rows}
    return {model: _scores(cell) for model, cell in cells.items() if cell != "-"}


def _scores(cell: str) -> dict[str, float]:
    mse, mae = cell.split("/")
    return {"mse": float(mse), "mae": float(mae)}
