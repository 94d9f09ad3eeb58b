<?xml version="1.0" encoding="UTF-8"?>
<!--
  A UWS 1.1 job document as a page: what the job is and what can be done with it, with plain forms; also its
  parameters and its results alone.

  The document's address is {base}/{service}/async/{id}, or one part deeper: parameters and results alone, and a job
  with a setting that was refused, which is said beside its field.
-->
<xsl:stylesheet version="1.0"
    xmlns:xsl="http://www.w3.org/1999/XSL/Transform"
    xmlns:uws="http://www.ivoa.net/xml/UWS/v1.0"
    xmlns:xlink="http://www.w3.org/1999/xlink"
    xmlns:i="urn:uwsd:jobinfo"
    exclude-result-prefixes="uws xlink i">

  <xsl:import href="page.xsl"/>

  <xsl:variable name="service" select="string(/processing-instruction('uwsd-service'))"/>
  <xsl:variable name="of-job" select="string(/processing-instruction('uwsd-job'))"/>
  <xsl:variable name="phase" select="string(/uws:job/uws:phase)"/>
  <xsl:variable name="has-ended" select="$phase = 'COMPLETED' or $phase = 'ERROR' or $phase = 'ABORTED' or $phase = 'ARCHIVED'"/>
  <!-- What the reader may do to the job; it is everything where nothing is said. -->
  <xsl:variable name="may">
    <xsl:choose>
      <xsl:when test="/processing-instruction('uwsd-may')"><xsl:value-of select="/processing-instruction('uwsd-may')"/></xsl:when>
      <xsl:otherwise>change abort destroy share</xsl:otherwise>
    </xsl:choose>
  </xsl:variable>
  <xsl:variable name="upper" select="'ABCDEFGHIJKLMNOPQRSTUVWXYZ'"/>
  <xsl:variable name="lower" select="'abcdefghijklmnopqrstuvwxyz'"/>
  <xsl:variable name="refused" select="string(/processing-instruction('uwsd-refused'))"/>
  <xsl:variable name="missing" select="string(/processing-instruction('uwsd-missing'))"/>
  <xsl:variable name="reason" select="string(/processing-instruction('uwsd-reason'))"/>
  <xsl:variable name="sent" select="string(/processing-instruction('uwsd-sent'))"/>
  <!-- From the page to where the job's own page is, and the job. -->
  <xsl:variable name="up"><xsl:if test="not(/uws:job) or $refused != ''">../</xsl:if></xsl:variable>
  <xsl:variable name="self">
    <xsl:if test="$up = ''">./</xsl:if>
    <xsl:value-of select="concat($up, $of-job, /uws:job/uws:jobId)"/>
  </xsl:variable>

  <xsl:template match="/uws:job">
    <xsl:variable name="name">
      <xsl:choose>
        <xsl:when test="uws:runId != ''"><xsl:value-of select="uws:runId"/></xsl:when>
        <xsl:otherwise><xsl:value-of select="concat('Job ', uws:jobId)"/></xsl:otherwise>
      </xsl:choose>
    </xsl:variable>
    <xsl:call-template name="page">
      <xsl:with-param name="title" select="concat($phase, ': ', $name)"/>
      <xsl:with-param name="root" select="concat($up, '../../')"/>
      <xsl:with-param name="live">
        <xsl:if test="$refused = '' and not($has-ended)">
          <xsl:value-of select="concat($self, '/events')"/>
          <xsl:for-each select="/processing-instruction('uwsd-version')"><xsl:value-of select="concat('?version=', .)"/></xsl:for-each>
        </xsl:if>
      </xsl:with-param>
      <xsl:with-param name="crumbs">
        <li><a href="{$up}../"><xsl:value-of select="$service"/></a></li>
        <li><a href="{$up}../async">Jobs</a></li>
        <li>
          <span aria-current="page">
            <xsl:value-of select="uws:runId"/>
            <xsl:if test="not(uws:runId != '')">Job</xsl:if>
          </span>
        </li>
      </xsl:with-param>
      <xsl:with-param name="main">
        <xsl:choose>
          <xsl:when test="uws:runId != ''"><h1><xsl:value-of select="uws:runId"/></h1></xsl:when>
          <xsl:otherwise><h1>Job <span class="id"><xsl:value-of select="uws:jobId"/></span></h1></xsl:otherwise>
        </xsl:choose>
        <xsl:if test="$refused != ''">
          <section class="error" role="alert" aria-labelledby="refused">
            <h2 id="refused">Not accepted</h2>
            <p><a href="#{translate($refused, $upper, $lower)}"><xsl:value-of select="$refused"/></a><xsl:value-of select="concat(': ', $reason)"/></p>
          </section>
        </xsl:if>
        <xsl:call-template name="status"/>
        <xsl:apply-templates select="uws:errorSummary"/>
        <xsl:call-template name="actions"/>
        <xsl:apply-templates select="uws:results"/>
        <xsl:apply-templates select="uws:parameters"/>
        <xsl:call-template name="facts"/>
        <xsl:call-template name="settings"/>
        <xsl:call-template name="sharing"/>
        <xsl:call-template name="record"/>
      </xsl:with-param>
    </xsl:call-template>
  </xsl:template>

  <xsl:template match="/uws:parameters | /uws:results">
    <xsl:variable name="what">
      <xsl:choose><xsl:when test="self::uws:results">Results</xsl:when><xsl:otherwise>Parameters</xsl:otherwise></xsl:choose>
    </xsl:variable>
    <xsl:call-template name="page">
      <xsl:with-param name="title" select="concat($what, ' of job ', $of-job)"/>
      <xsl:with-param name="root" select="'../../../'"/>
      <xsl:with-param name="crumbs">
        <li><a href="../../async">Jobs</a></li>
        <li><a href="{$self}"><xsl:value-of select="concat('Job ', $of-job)"/></a></li>
        <li><span aria-current="page"><xsl:value-of select="$what"/></span></li>
      </xsl:with-param>
      <xsl:with-param name="main">
        <h1><xsl:value-of select="concat($what, ' of job ', $of-job)"/></h1>
        <xsl:apply-templates select="." mode="table"/>
      </xsl:with-param>
    </xsl:call-template>
  </xsl:template>

  <!-- Announced when it changes. -->
  <xsl:template name="status">
    <section id="status" role="status" aria-label="Where the job is">
      <p><span class="phase {$phase}"><xsl:value-of select="$phase"/></span></p>
      <xsl:if test="uws:jobInfo/i:progress and not($has-ended)">
        <p>
          <progress max="1" value="{uws:jobInfo/i:progress}" aria-label="Progress"><xsl:value-of select="format-number(uws:jobInfo/i:progress, '0%')"/></progress>
          <xsl:value-of select="concat(' ', format-number(uws:jobInfo/i:progress, '0%'))"/>
        </p>
      </xsl:if>
      <xsl:if test="uws:jobInfo/i:doing and not($has-ended)"><p class="text"><xsl:value-of select="uws:jobInfo/i:doing"/></p></xsl:if>
      <xsl:if test="uws:jobInfo/i:place"><p><xsl:value-of select="concat('Place in the queue: ', uws:jobInfo/i:place)"/></p></xsl:if>
      <xsl:if test="uws:jobInfo/i:waitsFor"><p><xsl:value-of select="concat('Waits: ', uws:jobInfo/i:waitsFor)"/></p></xsl:if>
      <xsl:for-each select="uws:jobInfo/i:expectedStart"><p>Expected to start <xsl:call-template name="time"/></p></xsl:for-each>
      <!-- The quote is as old as the wait: it may be over by the time at which the job is now expected to start. -->
      <xsl:for-each select="uws:quote[. != '' and not($has-ended) and $phase != 'PENDING' and not(number(translate(substring(., 1, 19), '-T:', '')) &lt; number(translate(substring(../uws:jobInfo/i:expectedStart, 1, 19), '-T:', '')))]"><p>Expected to end <xsl:call-template name="time"/></p></xsl:for-each>
      <xsl:if test="uws:jobInfo/i:reason"><p class="text"><xsl:value-of select="uws:jobInfo/i:reason"/></p></xsl:if>
      <xsl:if test="$missing != ''"><p><xsl:value-of select="concat('It cannot run yet, without a value for ', $missing, '.')"/></p></xsl:if>
      <xsl:if test="uws:jobInfo/i:stopping"><p>It is being stopped.</p></xsl:if>
    </section>
  </xsl:template>

  <xsl:template match="uws:errorSummary">
    <section id="error" class="error" aria-labelledby="error-head">
      <h2 id="error-head">Error</h2>
      <p class="text"><xsl:value-of select="uws:message"/></p>
      <p>
        <xsl:choose>
          <xsl:when test="@type = 'transient'">The same job may succeed later. </xsl:when>
          <xsl:otherwise>The same job would fail again. </xsl:otherwise>
        </xsl:choose>
        <xsl:if test="@hasDetail = 'true' or @hasDetail = '1'">
          <a href="{$self}/error">Full error text</a>
        </xsl:if>
      </p>
    </section>
  </xsl:template>

  <xsl:template name="actions">
    <section id="actions" class="actions" aria-label="Actions">
      <xsl:if test="($phase = 'PENDING' or $phase = 'HELD') and contains($may, 'change')">
        <xsl:if test="$missing = ''">
          <form method="post" action="{$self}/phase"><button name="PHASE" value="RUN" class="main">Run</button></form>
        </xsl:if>
        <a class="button" href="{$up}../?change-job={uws:jobId}">Change the parameters</a>
      </xsl:if>
      <xsl:if test="($phase = 'PENDING' or $phase = 'QUEUED' or $phase = 'EXECUTING' or $phase = 'HELD' or $phase = 'SUSPENDED') and contains($may, 'abort')">
        <form method="post" action="{$self}/phase"><button name="PHASE" value="ABORT">Abort</button></form>
      </xsl:if>
      <a class="button" href="{$up}../?from-job={uws:jobId}">Run again, with changes</a>
      <xsl:if test="contains($may, 'destroy')">
        <details class="confirm">
          <summary>Delete</summary>
          <form method="post" action="{$self}">
            <p>The job and all its files will be gone.<xsl:if test="$phase = 'EXECUTING'"> Its program is stopped.</xsl:if></p>
            <button name="ACTION" value="DELETE" class="danger">Delete it for good</button>
          </form>
        </details>
      </xsl:if>
    </section>
  </xsl:template>

  <xsl:template match="uws:results">
    <section id="results" aria-labelledby="results-head">
      <h2 id="results-head">Results</h2>
      <xsl:apply-templates select="." mode="table"/>
      <xsl:for-each select="uws:result">
        <xsl:variable name="url">
          <xsl:call-template name="safe-url"><xsl:with-param name="url" select="@xlink:href"/></xsl:call-template>
        </xsl:variable>
        <xsl:choose>
          <xsl:when test="$url = ''"/>
          <xsl:when test="@mime-type = 'image/png' or @mime-type = 'image/jpeg' or @mime-type = 'image/gif' or @mime-type = 'image/webp' or @mime-type = 'image/svg+xml'">
            <p><img src="{$url}" alt="Result {@id}" loading="lazy"/></p>
          </xsl:when>
          <xsl:when test="starts-with(@mime-type, 'text/') or contains(@mime-type, 'json') or contains(@mime-type, 'xml') or contains(@mime-type, 'fits')">
            <xsl:call-template name="unfolding">
              <xsl:with-param name="url" select="concat($self, '/results/', @id, '/preview')"/>
              <xsl:with-param name="text" select="concat('First look at ', @id)"/>
            </xsl:call-template>
          </xsl:when>
        </xsl:choose>
      </xsl:for-each>
    </section>
  </xsl:template>

  <xsl:template match="uws:results" mode="table">
    <xsl:choose>
      <xsl:when test="uws:result">
        <div class="scroll" role="region" aria-label="Table of results" tabindex="0">
          <table>
            <thead>
              <tr><th scope="col">Name</th><th scope="col">Media type</th><th scope="col">Size</th></tr>
            </thead>
            <tbody><xsl:apply-templates select="uws:result"/></tbody>
          </table>
        </div>
      </xsl:when>
      <xsl:when test="$has-ended"><p>There are none.</p></xsl:when>
      <xsl:otherwise><p>None so far.</p></xsl:otherwise>
    </xsl:choose>
  </xsl:template>

  <xsl:template match="uws:result">
    <tr>
      <xsl:if test="contains(@mime-type, 'votable')"><xsl:attribute name="data-samp">table.load.votable</xsl:attribute></xsl:if>
      <xsl:if test="contains(@mime-type, 'fits')"><xsl:attribute name="data-samp">image.load.fits</xsl:attribute></xsl:if>
      <th scope="row">
        <xsl:call-template name="link">
          <xsl:with-param name="text" select="@id"/>
          <xsl:with-param name="url" select="@xlink:href"/>
        </xsl:call-template>
      </th>
      <td><xsl:value-of select="@mime-type"/></td>
      <td class="number"><xsl:for-each select="@size"><xsl:call-template name="size"/></xsl:for-each></td>
    </tr>
  </xsl:template>

  <xsl:template match="uws:parameters">
    <section id="parameters" aria-labelledby="parameters-head">
      <h2 id="parameters-head">Parameters</h2>
      <xsl:apply-templates select="." mode="table"/>
    </section>
  </xsl:template>

  <xsl:template match="uws:parameters" mode="table">
    <xsl:choose>
      <xsl:when test="uws:parameter">
        <div class="scroll" role="region" aria-label="Table of parameters" tabindex="0">
          <table>
            <thead><tr><th scope="col">Name</th><th scope="col">Value</th></tr></thead>
            <tbody>
              <xsl:for-each select="uws:parameter">
                <tr>
                  <th scope="row"><xsl:value-of select="@id"/></th>
                  <td class="value"><xsl:apply-templates select="."/></td>
                </tr>
              </xsl:for-each>
            </tbody>
          </table>
        </div>
      </xsl:when>
      <xsl:otherwise><p>None.</p></xsl:otherwise>
    </xsl:choose>
  </xsl:template>

  <xsl:template match="uws:parameter"><xsl:value-of select="."/></xsl:template>

  <xsl:template match="uws:parameter[@byReference = 'true' or @byReference = '1']">
    <xsl:variable name="url" select="normalize-space(.)"/>
    <xsl:variable name="called" select="/processing-instruction('uwsd-file')[substring-before(., ' ') = $url]"/>
    <xsl:call-template name="link">
      <xsl:with-param name="text">
        <xsl:choose>
          <xsl:when test="$called"><xsl:value-of select="substring-after($called, ' ')"/></xsl:when>
          <xsl:otherwise><xsl:value-of select="."/></xsl:otherwise>
        </xsl:choose>
      </xsl:with-param>
      <xsl:with-param name="url" select="$url"/>
    </xsl:call-template>
  </xsl:template>

  <xsl:template name="facts">
    <section id="facts" aria-labelledby="facts-head">
      <h2 id="facts-head">Job</h2>
      <dl>
        <dt>Id</dt><dd class="id"><xsl:value-of select="uws:jobId"/></dd>
        <xsl:if test="uws:runId != ''"><dt>Run id</dt><dd><xsl:value-of select="uws:runId"/></dd></xsl:if>
        <dt>Owner</dt>
        <dd>
          <xsl:choose>
            <xsl:when test="uws:ownerId != ''"><xsl:value-of select="uws:ownerId"/></xsl:when>
            <xsl:otherwise>nobody in particular</xsl:otherwise>
          </xsl:choose>
        </dd>
        <dt>Created</dt><dd><xsl:apply-templates select="uws:creationTime"/></dd>
        <dt>Started</dt><dd><xsl:apply-templates select="uws:startTime"/></dd>
        <dt>Ended</dt><dd><xsl:apply-templates select="uws:endTime"/></dd>
        <dt>May run for</dt>
        <dd>
          <xsl:choose>
            <xsl:when test="uws:executionDuration = 0">as long as it takes</xsl:when>
            <xsl:otherwise><xsl:for-each select="uws:executionDuration"><xsl:call-template name="duration"/></xsl:for-each></xsl:otherwise>
          </xsl:choose>
        </dd>
        <dt>Will be destroyed</dt><dd><xsl:apply-templates select="uws:destruction"/></dd>
        <xsl:apply-templates select="uws:jobInfo/*" mode="info"/>
      </dl>
    </section>
  </xsl:template>

  <xsl:template name="settings">
    <xsl:if test="$phase != 'ARCHIVED' and contains($may, 'change')">
      <section id="settings" class="settings" aria-labelledby="settings-head">
        <h2 id="settings-head">Settings</h2>
        <xsl:if test="$phase = 'PENDING' or $phase = 'HELD' or $phase = 'QUEUED'">
          <form method="post" action="{$self}/executionduration">
            <label for="executionduration">Longest run in seconds (0 for as long as the service allows)</label>
            <!-- A number field drops what is no number; what was refused has to stay. -->
            <input id="executionduration" name="EXECUTIONDURATION" type="number" min="0" step="1" required="required"
                   value="{uws:executionDuration}">
              <xsl:call-template name="refused"><xsl:with-param name="of" select="'EXECUTIONDURATION'"/></xsl:call-template>
            </input>
            <button>Change the limit</button>
            <xsl:call-template name="problem"><xsl:with-param name="of" select="'EXECUTIONDURATION'"/></xsl:call-template>
          </form>
        </xsl:if>
        <form method="post" action="{$self}/destruction">
          <label for="destruction">Time of destruction (UTC, as 2030-01-31T12:00:00Z)</label>
          <input id="destruction" name="DESTRUCTION" type="text" required="required" autocomplete="off"
                 value="{uws:destruction}">
            <xsl:call-template name="refused"><xsl:with-param name="of" select="'DESTRUCTION'"/></xsl:call-template>
          </input>
          <button>Change the time</button>
          <xsl:call-template name="problem"><xsl:with-param name="of" select="'DESTRUCTION'"/></xsl:call-template>
        </form>
      </section>
    </xsl:if>
  </xsl:template>

  <!-- Who else may look at the job. Those of nobody in particular are everybody's already. -->
  <xsl:template name="sharing">
    <xsl:if test="uws:ownerId != '' and $phase != 'ARCHIVED' and contains($may, 'share')">
      <section id="sharing" class="settings" aria-labelledby="sharing-head">
        <h2 id="sharing-head">Sharing</h2>
        <p>Others may look at the job and its files, and change nothing.</p>
        <form method="post" action="{$self}/shares">
          <label for="share-with">Share with a user, or with a group as @name</label>
          <input id="share-with" name="WITH" type="text" required="required" maxlength="200" autocomplete="off"/>
          <select name="EXPIRES" aria-label="For how long">
            <option value="">until you end it</option>
            <xsl:call-template name="times"/>
          </select>
          <button>Share</button>
        </form>
        <form method="post" action="{$self}/shares">
          <label for="share-link">Make a link for whoever has it</label>
          <input type="hidden" name="WITH" value="LINK"/>
          <select id="share-link" name="EXPIRES"><xsl:call-template name="times"/></select>
          <button>Make a link</button>
        </form>
        <xsl:call-template name="unfolding">
          <xsl:with-param name="url" select="concat($self, '/shares')"/>
          <xsl:with-param name="text" select="'With whom it is shared'"/>
        </xsl:call-template>
      </section>
    </xsl:if>
  </xsl:template>

  <xsl:template name="times">
    <option value="1d">for a day</option>
    <option value="7d">for a week</option>
    <option value="30d">for 30 days</option>
    <option value="90d">for 90 days</option>
  </xsl:template>

  <!-- Of a setting's control, what differs when it was refused, which keeps what was typed. -->
  <xsl:template name="refused">
    <xsl:param name="of"/>
    <xsl:if test="$of = $refused">
      <xsl:attribute name="type">text</xsl:attribute>
      <xsl:attribute name="value"><xsl:value-of select="$sent"/></xsl:attribute>
      <xsl:attribute name="aria-invalid">true</xsl:attribute>
      <xsl:attribute name="aria-describedby">problem</xsl:attribute>
    </xsl:if>
  </xsl:template>

  <xsl:template name="problem">
    <xsl:param name="of"/>
    <xsl:if test="$of = $refused"><p class="problem" id="problem"><xsl:value-of select="$reason"/></p></xsl:if>
  </xsl:template>

  <!-- What the program said, and what became of the job step by step. -->
  <xsl:template name="record">
    <section id="record" aria-labelledby="record-head">
      <h2 id="record-head">Record</h2>
      <xsl:if test="uws:startTime != '' and $phase != 'ARCHIVED'">
        <xsl:call-template name="unfolding">
          <xsl:with-param name="url" select="concat($self, '/logs/stdout/preview')"/>
          <xsl:with-param name="text" select="'End of standard output'"/>
        </xsl:call-template>
        <xsl:call-template name="unfolding">
          <xsl:with-param name="url" select="concat($self, '/logs/stderr/preview')"/>
          <xsl:with-param name="text" select="'End of standard error'"/>
        </xsl:call-template>
      </xsl:if>
      <xsl:call-template name="unfolding">
        <xsl:with-param name="url" select="concat($self, '/history')"/>
        <xsl:with-param name="text" select="'History'"/>
      </xsl:call-template>
      <p>
        <xsl:text>Provenance: </xsl:text>
        <a href="{$self}/provenance?RESPONSEFORMAT=svg">a drawing</a>
        <xsl:text>, </xsl:text>
        <a href="{$self}/provenance?RESPONSEFORMAT=json">PROV-JSON</a>
        <xsl:text>, </xsl:text>
        <a href="{$self}/provenance?RESPONSEFORMAT=provn">PROV-N</a>
      </p>
    </section>
  </xsl:template>

  <xsl:template match="uws:creationTime | uws:startTime | uws:endTime | uws:destruction">
    <xsl:choose>
      <xsl:when test=". != ''"><xsl:call-template name="time"/></xsl:when>
      <xsl:when test="self::uws:destruction">never</xsl:when>
      <xsl:otherwise>not yet</xsl:otherwise>
    </xsl:choose>
  </xsl:template>

  <!-- What stands elsewhere on the page. -->
  <xsl:template match="i:progress | i:doing | i:place | i:waitsFor | i:expectedStart | i:reason | i:stopping" mode="info"/>

  <xsl:template match="i:execution" mode="info"><dt>Made by</dt><dd>a synchronous request</dd></xsl:template>
  <xsl:template match="i:exitCode" mode="info"><dt>Exit status</dt><dd><xsl:value-of select="."/></dd></xsl:template>
  <xsl:template match="i:signal" mode="info"><dt>Ended by</dt><dd><xsl:value-of select="."/></dd></xsl:template>
  <xsl:template match="i:signalled" mode="info"><dt>Was sent</dt><dd><xsl:value-of select="."/></dd></xsl:template>
  <xsl:template match="i:requeued" mode="info"><dt>Started again</dt><dd><xsl:value-of select="concat(., ' times')"/></dd></xsl:template>
  <xsl:template match="i:batchJob" mode="info"><dt>In the batch system</dt><dd><xsl:value-of select="."/></dd></xsl:template>
  <xsl:template match="i:host" mode="info"><dt>Ran on</dt><dd><xsl:value-of select="."/></dd></xsl:template>
  <xsl:template match="i:cpuSeconds" mode="info"><dt>Processor time</dt><dd><xsl:value-of select="concat(., ' s')"/></dd></xsl:template>
  <xsl:template match="i:memoryBytes" mode="info"><dt>Memory</dt><dd><xsl:call-template name="size"/></dd></xsl:template>

  <xsl:template match="*" mode="info">
    <dt><xsl:value-of select="local-name()"/></dt>
    <dd>
      <xsl:for-each select="@*"><xsl:value-of select="concat(local-name(), ': ', ., ' ')"/></xsl:for-each>
      <xsl:choose>
        <xsl:when test="*"><dl><xsl:apply-templates select="*" mode="info"/></dl></xsl:when>
        <xsl:otherwise><xsl:value-of select="."/></xsl:otherwise>
      </xsl:choose>
    </dd>
  </xsl:template>

</xsl:stylesheet>
